// Every edit, and the jobs that solve and measure them.

import { get } from "../api.js";
import { badge, h, number, put, row, table } from "../dom.js";
import { count, moment } from "../format.js";

export async function render({ section }) {
  const [{ edits }, { jobs }] = await Promise.all([get("edits"), get("jobs", { limit: 50 })]);
  const rows = edits.map((edit) =>
    row(
      h("a", { href: `#/edits/${encodeURIComponent(edit.name)}` }, edit.name),
      edit.method ?? "–",
      badge(edit.solved ? "solved" : "not solved", edit.solved ? "succeeded" : ""),
      number(count(edit.n_facts)),
      number(count(edit.rank)),
      edit.policies.join(", ") || "no policy",
      moment(edit.created_at),
    ),
  );
  const work = jobs.map((job) => row(h("a", { href: `#/edits/${encodeURIComponent(job.name)}` }, job.name), job.kind, badge(job.state, job.state), job.progress ? `${job.progress.done ?? 0} of ${job.progress.total ?? 0}` : "", moment(job.created_at), job.error ?? ""));
  put(
    section,
    h("h1", {}, "Edits"),
    table("Edits", ["Name", "Method", "State", { label: "Facts", number: true }, { label: "Rank", number: true }, "Used by", "Solved"], rows, "There are no edits."),
    h("h2", {}, "Jobs"),
    table("Jobs", ["Edit", "Kind", "State", "Progress", "Asked", "Error"], work, "No job was asked for."),
  );
}
