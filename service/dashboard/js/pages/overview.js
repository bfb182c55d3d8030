// What is served, to whom, what fires, and what is wrong, on one page.

import { get } from "../api.js";
import { lines, sparkline } from "../charts.js";
import { badge, h, notice, number, put, row, table, tiles } from "../dom.js";
import { age, count, share } from "../format.js";

const EVERY = 5000;
const SPANS = [[60, "hour"], [360, "6 hours"], [1440, "day"]];

export async function render({ section, signal }) {
  const wrong = h("div", {});
  const figures = h("div", {});
  const traffic = lines("Requests by policy", signal);
  const raised = lines("Events by monitor and mode", signal);
  const monitors = h("div", {});
  const shadow = h("div", {});
  const chosen = { minutes: 60 };
  const spans = SPANS.map(([minutes, label]) => h("button", { type: "button", class: "plain", "aria-pressed": String(minutes === 60), onclick: () => choose(minutes) }, label));
  function choose(minutes) {
    chosen.minutes = minutes;
    spans.forEach((button, place) => button.setAttribute("aria-pressed", String(SPANS[place][0] === minutes)));
    return load();
  }

  async function load() {
    const [status, seen, policies] = await Promise.all([get("status"), get("overview", { minutes: chosen.minutes }), get("policies")]);
    if (signal.aborted) {
      return;
    }
    put(wrong, problems(status, seen.uses));
    put(figures, tiles(summary(status, seen)));
    const nobody = seen.times.map(() => 0);
    traffic.update(seen.times, Object.keys(seen.policies).length ? seen.policies : { "no requests": nobody });
    raised.update(seen.times, Object.keys(seen.events).length ? seen.events : { "no events": nobody });
    put(monitors, usesTable(seen));
    put(shadow, shadowTable(policies.policies, status.monitors));
  }

  // Shown once its figures are there, so that nothing moves when they come.
  await load();
  put(
    section,
    h("h1", {}, "Overview"),
    wrong,
    figures,
    h("div", { class: "bar", role: "group", "aria-label": "Span" }, h("span", { class: "muted" }, "The last"), spans),
    h("div", { class: "columns" }, traffic.figure, raised.figure),
    h("h2", {}, "Monitors"),
    monitors,
    h("h2", {}, "In shadow"),
    shadow,
  );
  const timer = setInterval(() => document.hidden || load().catch((error) => signal.aborted || put(wrong, notice(error.message, "bad"))), EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function problems(status, uses) {
  const directory = status.directory.errors.map((error) => `A policy file cannot be read: ${error.message ?? JSON.stringify(error)}`);
  const blind = uses.filter((use) => use.coverage < 1).map((use) => `${use.monitor} under ${use.policy} missed scores: coverage fell to ${share(use.coverage)}`);
  const unfit = Object.entries(status.monitors).flatMap(([monitor, found]) => Object.entries(found).filter(([, use]) => use.fault).map(([policy, use]) => `${monitor} under ${policy} is unfit: ${use.fault}`));
  const found = [...status.reasons, ...directory, status.directory.refused, status.behind, status.store.ok ? null : status.store.error ?? "The store does not answer.", ...blind, ...unfit];
  const told = found.filter((reason) => typeof reason === "string" && reason);
  return told.map((reason) => notice(reason, "warn"));
}

function summary(status, seen) {
  const sum = (series) => Object.values(series).flat().reduce((total, value) => total + value, 0);
  const coverage = seen.uses.length ? Math.min(...seen.uses.map((use) => use.coverage)) : null;
  return [
    ["Served", status.served_names[0] ?? "–"],
    ["State", status.ready ? "ready" : "not ready", status.ready ? "good" : "bad"],
    ["Requests", count(seen.requests.reduce((total, value) => total + value, 0))],
    ["Events", count(sum(seen.events))],
    ["Lowest coverage", share(coverage), coverage !== null && coverage < 1 ? "bad" : ""],
    ["Policies", count(Object.keys(status.policies).length)],
    ["Generation", count(status.generation)],
    ["Running for", age(status.uptime_seconds)],
  ];
}

function usesTable(seen) {
  const rows = seen.uses.map((use) =>
    row(
      h("a", { href: `#/monitors/${encodeURIComponent(use.monitor)}` }, use.monitor),
      h("a", { href: `#/policies/${encodeURIComponent(use.policy.split("@")[0])}` }, use.policy),
      badge(use.mode, use.mode),
      sparkline(seen.events[`${use.monitor} (${use.mode})`] ?? seen.times.map(() => 0), `events of ${use.monitor}`),
      number(count(use.choices)),
      number(count(use.fired)),
      number(count(use.acted)),
      number(count(use.faults)),
      number(share(use.coverage)),
    ),
  );
  const heads = ["Monitor", "Policy", "Mode", "Events", ...["Choices", "Fired", "Acted", "Faults", "Lowest coverage"].map((label) => ({ label, number: true }))];
  return table(`Monitors over the newest ${seen.records} requests`, heads, rows, "No request was watched yet.");
}

function shadowTable(policies, monitors) {
  const whole = policies.filter((policy) => policy.mode === "shadow").map((policy) => row(h("a", { href: `#/policies/${encodeURIComponent(policy.name)}` }, policy.name), "the whole policy"));
  const single = Object.entries(monitors).flatMap(([monitor, uses]) =>
    Object.entries(uses).filter(([, use]) => use.mode === "shadow").map(([policy]) => row(h("a", { href: `#/policies/${encodeURIComponent(policy)}` }, policy), `monitor ${monitor}`)),
  );
  return table("What is in shadow", ["Policy", "What"], [...whole, ...single], "Nothing is in shadow.");
}
