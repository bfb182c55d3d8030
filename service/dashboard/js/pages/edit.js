// One edit: its facts, its gates, and the cards of the jobs that solved and measured it.

import { address, get } from "../api.js";
import { badge, h, json, notice, number, put, row, table } from "../dom.js";
import { figure, moment } from "../format.js";

export async function render({ section, target }) {
  const [edit, { jobs }] = await Promise.all([get(`edits/${encodeURIComponent(target)}`), get("jobs", { limit: 1000 })]);
  const facts = edit.facts.map((fact) => row(fact.prompt?.replace("{}", fact.subject) ?? fact.digest.slice(0, 12), fact.subject ?? "", fact.target ?? "", number(figure(fact.fit?.nll))));
  const cards = jobs.filter((job) => job.name === target && job.state === "succeeded").slice(0, 2);
  put(
    section,
    h("p", {}, h("a", { href: "#/edits" }, "Edits")),
    h("h1", {}, `${edit.name} `, badge(edit.solved ? "solved" : "not solved", edit.solved ? "succeeded" : "")),
    h("p", { class: "muted" }, `${edit.method ?? ""} at layers ${(edit.layers ?? []).join(", ") || "not chosen"}, ${edit.serve === "merge" ? "merged into the weights" : "beside the weights"}; used by ${edit.policies.join(", ") || "no policy"}.`),
    h("h2", {}, "Facts"),
    table("Facts", ["Prompt", "Subject", "Target", { label: "Loss of the fit", number: true }], facts),
    h("h2", {}, "Gates"),
    gates(edit.gates),
    h("h2", {}, "Evaluation"),
    cards.length ? cards.map(card) : notice("No job's card is kept: solve or evaluate it with “trimtab edit … --url”."),
    h("h2", {}, "Document"),
    json(edit.content),
  );
}

function gates(found) {
  if (!found) {
    return h("p", { class: "muted" }, "Known once it is solved.");
  }
  const list = Array.isArray(found) ? found : Object.entries(found).map(([name, gate]) => ({ name, ...(typeof gate === "object" ? gate : { figure: gate }) }));
  return table("Gates", ["Gate", { label: "Figure", number: true }, { label: "Limit", number: true }, "Outcome"], list.map((gate) => row(gate.name ?? "", number(figure(gate.figure ?? gate.value)), number(figure(gate.limit)), gate.outcome ?? (gate.passed === undefined ? "" : gate.passed ? "passed" : "refused"))));
}

function card(job) {
  const frame = h("iframe", { class: "card", src: address(`jobs/${job.id}/card`), title: `Card of job ${job.id}: ${job.kind} of ${job.name}` });
  frame.addEventListener("load", () => fit(frame));
  return h("figure", {}, h("figcaption", {}, `Job ${job.id}, ${job.kind}, ${moment(job.ended_at)}`), frame);
}

function fit(frame) {
  const height = frame.contentDocument?.documentElement.scrollHeight;
  if (height) {
    frame.style.setProperty("height", `${height + 4}px`);
  }
}
