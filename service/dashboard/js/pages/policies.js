// Every policy, and the bindings that say whose requests run under what.

import { get } from "../api.js";
import { badge, h, json, number, put, row, table } from "../dom.js";
import { moment } from "../format.js";

export async function render({ section }) {
  const [{ policies }, { bindings }] = await Promise.all([get("policies"), get("bindings")]);
  const rows = policies.map((policy) =>
    row(
      h("a", { href: `#/policies/${encodeURIComponent(policy.name)}` }, policy.name),
      policy.description,
      badge(policy.mode, policy.mode),
      policy.selectable ? "clients may choose it" : "by binding only",
      policy.owner,
      number(String(policy.revision)),
      moment(policy.created_at),
    ),
  );
  put(
    section,
    h("h1", {}, "Policies"),
    table("Policies", ["Name", "What it is for", "Mode", "Who gets it", "Owner", { label: "Revision", number: true }, "Since"], rows, "No policy is active."),
    h("h2", {}, "Bindings"),
    bindings.map((binding) => h("details", {}, h("summary", {}, `${binding.name}, revision ${binding.revision}`), json(binding))),
  );
}
