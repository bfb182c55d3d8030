// Who changed what, in a chain that shows when a row was changed or taken away.

import { get } from "../api.js";
import { h, json, notice, number, put, row, table } from "../dom.js";
import { count, moment } from "../format.js";

export async function render({ section }) {
  const place = h("div", {});
  const told = h("div", {});
  const state = { next: null };
  const older = h("button", { type: "button", class: "plain", onclick: () => load(state.next) }, "Older");
  const check = h("button", { type: "button", onclick: verify }, "Check the chain");
  put(section, h("h1", {}, "Audit"), h("div", { class: "bar" }, check), told, place, older);

  async function verify() {
    const found = await get("audit/verify");
    put(told, found.ok ? notice(`All ${count(found.rows)} rows hold; the last is ${found.anchor}.`) : notice(`The chain is broken: ${JSON.stringify(found.bad)}`, "bad"));
  }

  async function load(before) {
    const page = await get("audit", { limit: 50, before: before ?? undefined });
    state.next = page.next;
    older.disabled = page.next === null;
    const rows = page.entries.map((entry) => row(String(entry.seq), moment(entry.at), entry.actor, entry.action, entry.target, h("td", {}, h("details", {}, h("summary", {}, "before and after"), json({ before: entry.before, after: entry.after })))));
    put(place, table("Changes, newest first", ["Number", "Time", "Who", "What", "To what", "Content"], rows, "Nothing was changed yet."));
  }

  await load(null);
}
