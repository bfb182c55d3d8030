// Decision records: what each request ran under and what was found; never what was said.

import { get } from "../api.js";
import { badge, h, number, put, row, table } from "../dom.js";
import { figure, moment } from "../format.js";

export async function render({ section, query }) {
  const place = h("div", {});
  const older = h("button", { type: "button", class: "plain", onclick: () => load(state.before) }, "Older");
  const state = { before: null };
  const find = h("form", { class: "bar", role: "search" }, h("label", {}, "Name of a request or an answer", h("input", { type: "text", size: 40, name: "request" })), h("button", { type: "submit" }, "Show"));
  find.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/requests/${encodeURIComponent(find.elements.request.value.trim())}`;
  });
  put(section, h("h1", {}, "Requests"), h("p", { class: "muted" }, "Decision records: what a request ran under and what was found, never what was said."), find, place, older);

  async function load(before) {
    const page = await get("decisions", { limit: 50, before: before ?? undefined, policy: query.get("policy") ?? undefined });
    state.before = page.before;
    older.disabled = page.before === null;
    put(place, table("Requests, newest first", ["Time", "Request", "Policies", "Outcome", { label: "Seconds", number: true }, "Fired"], page.decisions.map(line), "No request ran under a policy yet."));
  }

  await load(null);
}

function line(record) {
  const fired = record.choices.flatMap((choice) => Object.entries(choice.verdicts).filter(([, verdict]) => verdict.fired).map(([name, verdict]) => badge(name, verdict.mode)));
  return row(moment(record.at), h("a", { href: `#/requests/${encodeURIComponent(record.request)}` }, h("code", {}, record.request.slice(0, 12))), record.policies.map((policy) => policy.policy).join(", ") || "none", record.outcome, number(figure(record.seconds)), h("td", {}, fired.map((one) => [one, " "])));
}
