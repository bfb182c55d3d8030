// One policy: its modes, with a click for whoever may change them; its revisions and what changed between them.

import { get, send } from "../api.js";
import { badge, h, json, notice, put, row, table } from "../dom.js";
import { may, moment } from "../format.js";

const MODES = ["off", "shadow", "enforce"];

export async function render({ section, who, target }) {
  const path = `policies/${encodeURIComponent(target)}`;
  const told = h("div", {});
  const body = h("div", {});
  let now = null;
  put(section, h("p", {}, h("a", { href: "#/policies" }, "Policies")), told, body);

  async function load() {
    const [policy, all] = await Promise.all([get(path), get("policies")]);
    const spec = policy.content.spec;
    now = { isOwned: policy.owner === "directory", generation: all.generation };
    const uses = Object.entries(spec.monitors ?? {});
    put(
      body,
      h("h1", {}, `${policy.name} `, badge(policy.mode, policy.mode)),
      h("p", {}, policy.description || "No description."),
      h("p", { class: "muted" }, `Revision ${policy.revision}, owned by ${policy.owner === "directory" ? "the policy directory: it is changed in its file" : "the API"}.`),
      h("h2", {}, "Modes"),
      may(who, "operator") && policy.owner === "directory" ? elsewhere(policy) : null,
      table("Modes", ["What", "Mode", "Does", "Fires at"], [modeRow("The policy", "mode", policy.mode), ...uses.map(([name, use]) => modeRow(h("a", { href: `#/monitors/${encodeURIComponent(name)}` }, name), `monitors.${name}.mode`, use.mode, use, name))]),
      h("h2", {}, "Revisions"),
      timeline(policy),
      h("h2", {}, "What changed"),
      await differences(policy),
      h("h2", {}, "Document"),
      json(policy.content),
    );
  }

  // Nothing is offered that the server would refuse: the directory says what its policies are.
  function elsewhere(policy) {
    const file = policy.file ? h("code", {}, policy.file) : "its file";
    const text = ["The policy directory owns this policy, so it is not switched here. Change ", h("code", {}, "mode"), " in ", file, ", and it is served within a second; or apply a copy under another name."];
    return h("p", { class: "callout", id: "elsewhere" }, text);
  }

  function modeRow(what, field, mode, use, name = "the policy") {
    const at = use ? (use.above !== null && use.above !== undefined ? `above ${use.above}` : `false-positive rate ${use.fpr}`) : "";
    return row(what, may(who, "operator") ? switcher(field, mode, name) : badge(mode, mode), use ? use.do : "", at);
  }

  function switcher(field, mode, name) {
    const { isOwned, generation } = now;
    return h("div", { class: "modes", role: "group", "aria-label": `Mode of ${name}`, "aria-describedby": isOwned && "elsewhere" }, MODES.map((one) => h("button", { type: "button", class: "plain", "aria-pressed": String(one === mode), "data-field": field, "data-mode": one, disabled: isOwned, onclick: () => one !== mode && change({ [field]: one }, generation) }, one)));
  }

  async function change(fields, generation) {
    await tried(() => send("POST", `${path}/set`, { set: fields }, { "if-match": `"${generation}"` }), (done) => `Revision ${done.revision} is active.`);
  }

  async function tried(work, say) {
    section.setAttribute("aria-busy", "true");
    try {
      const done = await work();
      await load();
      put(told, notice(say(done)));
    } catch (error) {
      put(told, notice(error.message, "bad"));
    } finally {
      section.removeAttribute("aria-busy");
    }
  }

  function timeline(policy) {
    return h(
      "ol",
      { class: "timeline" },
      policy.revisions.map((one) => h("li", { class: one.revision === policy.revision && "active" }, h("strong", {}, `Revision ${one.revision}`), one.revision === policy.revision ? " (active)" : "", h("span", { class: "muted" }, ` ${moment(one.created_at)}, by ${one.owner}, `), h("code", {}, one.digest.slice(0, 12)), one.revision !== policy.revision && may(who, "operator") && !now.isOwned ? [" ", h("button", { type: "button", class: "plain", onclick: () => back(one.revision) }, `Roll back to ${one.revision}`)] : null)),
    );
  }

  async function back(revision) {
    await tried(() => send("POST", `${path}/rollback`, { revision }), () => `Revision ${revision} is what is active again.`);
  }

  async function differences(policy) {
    if (policy.revisions.length < 2) {
      return h("p", { class: "muted" }, "There is only this revision.");
    }
    const numbers = policy.revisions.map((one) => one.revision);
    const place = h("div", {});
    const before = numbers.find((number) => number < policy.revision) ?? numbers.find((number) => number !== policy.revision);
    const chosen = { from: before, to: policy.revision };
    async function draw() {
      const [from, to] = await Promise.all([get(path, { revision: chosen.from }), get(path, { revision: chosen.to })]);
      put(place, diffTable(from.content, to.content));
    }
    const pick = (label, name) => h("label", {}, label, h("select", { onchange: (event) => { chosen[name] = Number(event.target.value); draw(); } }, numbers.map((number) => h("option", { value: number, selected: number === chosen[name] }, number))));
    await draw();
    return [h("div", { class: "bar" }, pick("From revision", "from"), pick("to", "to")), place];
  }

  await load();
}

function diffTable(from, to) {
  const [before, after] = [flat(from), flat(to)];
  const paths = [...new Set([...before.keys(), ...after.keys()])].filter((path) => before.get(path) !== after.get(path)).sort();
  const rows = paths.map((path) => row(path, h("td", { class: "was" }, before.get(path) ?? "–"), h("td", { class: "is" }, after.get(path) ?? "–")));
  const shown = table("What changed", ["Field", "Was", "Is"], rows, "Nothing in the document; the artifacts that it names may differ.");
  shown.querySelector("table").classList.add("diff");
  return shown;
}

function flat(value, path = "", found = new Map()) {
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value);
    entries.forEach(([name, item]) => flat(item, Array.isArray(value) ? `${path}[${name}]` : path ? `${path}.${name}` : name, found));
    if (!entries.length) {
      found.set(path, Array.isArray(value) ? "[]" : "{}");
    }
  } else {
    found.set(path, JSON.stringify(value));
  }
  return found;
}
