// One decision record.

import { get } from "../api.js";
import { badge, h, json, number, put, row, table, tiles } from "../dom.js";
import { figure, moment, rarity, share } from "../format.js";
import { whereOf } from "../heat.js";

export async function render({ section, target }) {
  const record = await get(`decisions/${encodeURIComponent(target)}`);
  const verdicts = record.choices.flatMap((choice) => Object.entries(choice.verdicts).map(([name, verdict]) => row(`${name}${record.choices.length > 1 ? `, choice ${choice.index}` : ""}`, badge(verdict.mode, verdict.mode), verdict.fired ? badge("fired", "fault") : "quiet", verdict.action, number(figure(verdict.score, 4)), number(figure(verdict.threshold, 4)), number(rarity(verdict.rarity)), verdict.position === null ? "–" : whereOf(verdict.position, verdict.position - verdict.token), number(share(verdict.coverage)))));
  const heads = ["Monitor", "Mode", "Found", "Done", ...["Score", "Threshold", "Rarity"].map((label) => ({ label, number: true })), "Where", { label: "Coverage", number: true }];
  put(
    section,
    h("p", {}, h("a", { href: "#/requests" }, "Requests")),
    h("h1", {}, "Request ", h("code", {}, record.request.slice(0, 12))),
    h("p", { class: "muted" }, `${moment(record.at)}, ${record.route}, answer ${record.answer || "without a name"}`),
    tiles([
      ["Outcome", record.outcome],
      ["Policies", record.policies.map((policy) => policy.policy).join(", ") || "none"],
      ["Binding", record.binding],
      ["Caller", record.caller.name],
      ["Seconds", figure(record.seconds)],
      ["Generation", String(record.generation)],
    ]),
    h("h2", {}, "Verdicts"),
    table("Verdicts", heads, verdicts, "No monitor watched it."),
    h("h2", {}, "Record"),
    json(record),
  );
}
