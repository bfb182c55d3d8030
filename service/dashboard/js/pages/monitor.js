// One monitor: its scores beside those of its calibration, its thresholds, its drift.

import { address, get } from "../api.js";
import { histogram } from "../charts.js";
import { badge, h, json, number, put, row, table } from "../dom.js";
import { count, figure, may, moment, share } from "../format.js";

const LAYERS = 4;
const FEW = 5; // a share of fewer choices says nothing

export async function render({ section, who, target }) {
  const path = `monitors/${encodeURIComponent(target)}`;
  const [monitor, scores] = await Promise.all([get(path), get(`${path}/scores`)]);
  put(
    section,
    h("p", {}, h("a", { href: "#/monitors" }, "Monitors")),
    h("h1", {}, monitor.name),
    h("p", {}, monitor.description || "No description."),
    h("p", { class: "muted" }, `Reads ${monitor.reads} direction${monitor.reads === 1 ? "" : "s"} at ${monitor.at}, tokens ${monitor.tokens}, pooled by ${monitor.pool}.`),
    h("p", {}, h("a", { href: `#/events?monitor=${encodeURIComponent(monitor.name)}` }, "Its events"), may(who, "operator") ? ["; labelled ones as items to calibrate on: ", items(monitor.name, true), ", ", items(monitor.name, false)] : null),
    h("h2", {}, "Scores"),
    plot(scores),
    h("h2", {}, "Uses"),
    uses(monitor, scores),
    h("h2", {}, "Calibrations"),
    monitor.calibrations.length ? monitor.calibrations.map(calibration) : h("p", { class: "muted" }, "None: a use needs “above”, or a calibration for its “fpr”."),
    h("h2", {}, "Revisions"),
    h("ol", { class: "timeline" }, monitor.revisions.map((one) => h("li", { class: one.revision === monitor.revision && "active" }, `${one.revision}, by ${one.owner}, ${moment(one.created_at)}`))),
    h("h2", {}, "Document"),
    json(monitor.content),
  );
}

function items(name, label) {
  return h("a", { href: address("events/labelled", { monitor: name, label }), download: `${name}-${label}.jsonl` }, `labelled ${label}`);
}

function plot(scores) {
  if (!scores.edges.length) {
    return h("p", { class: "muted" }, "No scores yet: they come from the records of requests under a policy that uses this monitor.");
  }
  const many = scores.uses.filter((use) => use.choices >= FEW).sort((a, b) => b.choices - a.choices);
  const layers = (many.length ? many : scores.uses).slice(0, LAYERS).map((use) => ({ counts: use.counts, label: `${use.policy}, ${use.mode} (${count(use.choices)} choices)` }));
  const benign = { counts: scores.benign.counts.length ? scores.benign.counts : scores.edges.slice(1).map(() => 0), label: `benign, of the calibration (${count(scores.benign.requests)})` };
  const marks = [...new Set(scores.uses.flatMap((use) => use.thresholds))];
  return histogram(`Highest score of a choice, over the newest ${count(scores.records)} requests, as a share of each kind`, scores.edges, [benign, ...layers], marks);
}

function uses(monitor, scores) {
  const rows = Object.entries(monitor.policies).map(([policy, use]) => {
    const seen = scores.uses.find((one) => one.policy === policy && one.mode === use.mode);
    return row(
      h("a", { href: `#/policies/${encodeURIComponent(policy)}` }, policy),
      badge(use.mode, use.mode),
      use.do,
      number(figure(use.threshold, 4)),
      number(seen ? `${count(seen.fired)} of ${count(seen.choices)}` : "–"),
      number(share(seen?.coverage)),
      number(drift(seen)),
      use.fault ? h("span", { class: "bad" }, use.fault) : "",
    );
  });
  const heads = ["Policy", "Mode", "Does", ...["Threshold", "Fired", "Lowest coverage", "Drift (PSI)"].map((label) => ({ label, number: true })), "Fault"];
  return [table("Uses", heads, rows, "No policy uses it."), h("p", { class: "muted" }, "Drift compares recent scores with those of the calibration, from 100 of them on: 0.1 is worth a look, 0.25 says that the scores come from somewhere else.")];
}

function drift(seen) {
  return seen?.psi === null || seen === undefined ? "too few" : figure(seen.psi);
}

function calibration(one) {
  const rows = one.thresholds.map((threshold) =>
    row(
      share(threshold.fpr),
      number(threshold.threshold === null ? `needs ${count(threshold.benign_requests_needed)} benign requests` : figure(threshold.threshold, 4)),
      number(threshold.interval ? threshold.interval.map(share).join(" to ") : "–"),
    ),
  );
  return h("div", {}, h("p", {}, h("code", {}, one.digest.slice(0, 12)), ` on ${count(one.benign_requests)} benign requests, ${count(one.benign_tokens)} tokens`), table(`Thresholds of ${one.digest.slice(0, 12)}`, ["False-positive rate", { label: "Threshold", number: true }, { label: "Rate, 95 % interval", number: true }], rows));
}
