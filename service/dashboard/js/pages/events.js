// The feed: rows that stay where they are and are filled anew, so that nothing moves under the reader.

import { get } from "../api.js";
import { badge, h, put } from "../dom.js";
import { clock, figure, moment, rarity, share } from "../format.js";

const ROWS = 50;
const HEADS = [["Time", "when"], ["Monitor"], ["Policy"], ["Mode", "narrow"], ["Done", "narrow"], ["Score", "narrow number"], ["Threshold", "narrow number"], ["Rarity", "narrow number"], ["Coverage", "narrow number"], ["Label", "narrow"]];

export async function render({ section, live, signal, query }) {
  const state = { monitor: query.get("monitor") ?? "", policy: query.get("policy") ?? "", paused: null, older: null };
  const rows = Array.from({ length: ROWS }, emptyRow);
  const lost = h("p", { class: "warn", role: "status" });
  const none = h("p", { class: "muted", role: "status" }, "No such event yet.");
  const pause = h("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: toggle }, "Pause");
  const older = h("button", { type: "button", class: "plain", onclick: goBack }, "Older");
  const newest = h("button", { type: "button", class: "plain", disabled: true, onclick: goOn }, "Newest");
  const body = h("tbody", {}, rows.map((one) => one.line));
  const feed = h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": "Events, newest first" },
    h("table", { class: "feed" }, h("caption", { class: "unseen" }, "Events, newest first"), h("thead", {}, h("tr", {}, HEADS.map(([label, kind]) => h("th", { scope: "col", class: kind }, label)))), body),
  );
  put(
    section,
    h("h1", {}, "Events"),
    h("p", { class: "muted" }, "Verdicts that fired, or monitors that failed where they are to act; they come as they are written."),
    h("div", { class: "bar" }, filter("Monitor", "monitor"), filter("Policy", "policy"), pause, older, newest),
    lost,
    none,
    feed,
  );

  function filter(label, name) {
    return h("label", {}, label, h("input", { type: "text", value: state[name], size: 14, oninput: (event) => { state[name] = event.target.value.trim(); state.older = null; draw(); } }));
  }

  function toggle() {
    state.paused = state.paused ? null : live.events.slice();
    pause.setAttribute("aria-pressed", String(Boolean(state.paused)));
    draw();
  }

  async function goBack() {
    const shown = current();
    const before = shown.at(-1)?.id;
    if (before === undefined) {
      return;
    }
    const page = await get("events", { before, limit: ROWS, monitor: state.monitor, policy: state.policy });
    state.older = page.events.reverse();
    draw();
  }

  function goOn() {
    state.older = null;
    draw();
  }

  function current() {
    const from = state.older ?? state.paused ?? live.events;
    const wanted = from.filter((event) => event.monitor.includes(state.monitor) && event.policy.startsWith(state.policy));
    return wanted.slice(0, ROWS);
  }

  function draw() {
    const shown = current();
    rows.forEach((one, place) => fill(one, shown[place]));
    newest.disabled = state.older === null;
    older.disabled = shown.length === 0;
    none.hidden = shown.length > 0;
    lost.textContent = live.lost ? `${live.lost} events were taken by retention before this page could read them.` : "";
  }

  live.listen(draw, signal);
}

function emptyRow() {
  const link = h("a", {});
  const cells = HEADS.map(([, kind]) => h("td", { class: kind }));
  const head = h("th", { scope: "row", class: "when" }, link);
  const [mode, done] = [badge(""), badge("")];
  cells[3].append(mode);
  cells[4].append(done);
  return { line: h("tr", { hidden: true }, head, cells.slice(1)), link, cells, mode, done, id: null };
}

function fill(one, event) {
  const key = event ? `${event.id} ${event.label}` : null;
  if (one.id === key) {
    return;
  }
  one.id = key;
  one.line.hidden = !event;
  if (!event) {
    return;
  }
  one.link.href = `#/events/${event.id}`;
  one.link.textContent = clock(event.at);
  one.link.title = moment(event.at);
  const done = event.fault ? `fault: ${event.fault}` : event.action === "none" ? event.do : event.action;
  const texts = [null, event.monitor, event.policy, null, null, figure(event.score), figure(event.threshold), rarity(event.rarity), share(event.coverage), event.label === null || event.label === undefined ? "" : event.label ? "true" : "false"];
  texts.forEach((text, place) => text !== null && (one.cells[place].textContent = text));
  one.line.dataset.event = event.id;
  one.mode.textContent = event.mode;
  one.mode.className = `badge ${event.mode}`;
  one.done.textContent = done;
  one.done.className = `badge ${event.fault ? "fault" : event.mode === "shadow" ? "shadow" : done}`;
}
