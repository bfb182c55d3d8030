// Canaries as they run, and what monitors in shadow would have done beside what enforced ones did.

import { get, send } from "../api.js";
import { badge, h, json, notice, number, put, row, table } from "../dom.js";
import { count, may, share } from "../format.js";

export async function render({ section, who }) {
  const [{ canaries }, report] = await Promise.all([get("canaries"), get("verdicts", { limit: 1000 })]);
  put(
    section,
    h("h1", {}, "Canaries"),
    canaries.length ? canaries.map((canary) => one(canary, who)) : h("p", { class: "muted" }, "No binding has a canary."),
    h("h2", {}, "Shadow report"),
    h("p", { class: "muted" }, `Over the newest ${count(report.records)} requests. “Alone” fired in shadow where nothing enforced acted; “missed” did not fire where something did.`),
    table("What monitors did", ["Monitor", "Policy", "Mode", ...["Choices", "Fired", "Acted", "Faults", "Agreed", "Alone", "Missed"].map((label) => ({ label, number: true })), "Examples"], report.uses.map(use), "No request was watched yet."),
  );
}

function use(found) {
  const shadow = found.mode === "shadow";
  const examples = shadow ? [...(found.examples?.alone ?? []), ...(found.examples?.missed ?? [])].slice(0, 3) : [];
  const part = (value) => number(shadow ? count(value) : "");
  return row(found.monitor, found.policy, badge(found.mode, found.mode), number(count(found.choices)), number(`${count(found.fired)} (${share(found.choices ? found.fired / found.choices : null)})`), number(count(found.acted)), number(count(found.faults)), part(found.agreed), part(found.alone), part(found.missed), h("td", {}, examples.map((request, place) => [place ? ", " : "", h("a", { href: `#/requests/${encodeURIComponent(request)}` }, request.slice(0, 8))])));
}

function one(canary, who) {
  const told = h("div", {});
  const halt = async () => {
    try {
      await send("POST", `bindings/${encodeURIComponent(canary.binding)}/halt`);
      put(told, notice("The canary is ended: everyone gets what was there before."));
    } catch (error) {
      put(told, notice(error.message, "bad"));
    }
  };
  return h("section", {}, h("h2", {}, `Binding ${canary.binding ?? canary.name}`), told, may(who, "operator") && !canary.halted ? h("button", { type: "button", onclick: halt }, "End this canary") : null, json(canary));
}
