// Every monitor: where it reads, what it is calibrated on, who uses it how.

import { get } from "../api.js";
import { badge, h, number, put, row, table } from "../dom.js";
import { count } from "../format.js";

export async function render({ section }) {
  const { monitors } = await get("monitors");
  const rows = monitors.map((monitor) =>
    row(
      h("a", { href: `#/monitors/${encodeURIComponent(monitor.name)}` }, monitor.name),
      monitor.description,
      h("code", {}, monitor.at),
      monitor.tokens,
      monitor.pool,
      number(count(monitor.calibrations.length)),
      h("div", { class: "bar" }, Object.entries(monitor.policies).map(([policy, use]) => h("span", {}, `${policy} `, badge(use.mode, use.mode)))),
    ),
  );
  put(section, h("h1", {}, "Monitors"), table("Monitors", ["Name", "What it watches for", "Reads at", "Tokens", "Pooled by", { label: "Calibrations", number: true }, "Used by"], rows, "There are no monitors."));
}
