// A text as a heat map: each token's score is its background, and a line under it says that the score is above the threshold.

import { h, put, row, number, table } from "./dom.js";
import { figure } from "./format.js";

const HOTTEST = 8;

// ``trace`` is as GET events/{id} has it; ``at`` is the position where the monitor fired.
export function heatMap(trace, monitor, at) {
  const chosen = { monitor: monitor in trace.scores ? monitor : Object.keys(trace.scores)[0] };
  const map = h("div", { class: "heat", tabindex: "0", role: "group", "aria-label": "Tokens; arrow keys move from token to token" });
  const told = h("p", { class: "muted told", role: "status" }, "Point at a token, or move with the arrow keys.");
  const hottest = h("div", {});
  const legend = h("div", { class: "scale" });
  const names = Object.keys(trace.scores);
  const choice = h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, "Scores of"),
    names.map((name) => h("label", {}, h("input", { type: "radio", name: "heat-monitor", value: name, checked: name === chosen.monitor, onchange: () => draw(name) }), name)),
  );

  function draw(name) {
    chosen.monitor = name;
    const scores = trace.scores[name];
    const threshold = trace.thresholds[name];
    const scale = scaleOf(scores, threshold);
    const tokens = trace.tokens.map((text, place) => token(text, place, scores[place], threshold, scale));
    const prompt = Math.max(0, trace.prompt_length - trace.first);
    put(map, part("Prompt", tokens.slice(0, prompt)), part("Answer", tokens.slice(prompt)));
    put(legend, bar(scale, threshold));
    put(hottest, tableOf(scores));
  }

  function token(text, place, score, threshold, scale) {
    const position = trace.first + place;
    const isOver = score !== null && threshold !== null && score > threshold;
    const shown = text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
    const mark = position === at ? h("span", { class: "unseen" }, " (the monitor fired here)") : null;
    return h(
      "span",
      {
        class: ["token", isOver && "over", position === at && "fired", score === null && "unscored"].filter(Boolean).join(" "),
        "data-position": position,
        "data-score": score,
        title: describe(place),
        vars: score === null ? {} : { heat: `${scale.of(score)}%` },
        onpointerenter: () => (told.textContent = describe(place)),
      },
      shown === "" ? "∅" : shown,
      mark,
    );
  }

  function describe(place) {
    const score = trace.scores[chosen.monitor][place];
    return `“${trace.tokens[place]}”, ${whereOf(trace.first + place, trace.prompt_length)}: ${score === null ? "no score" : figure(score, 4)}`;
  }

  function tableOf(scores) {
    const found = scores.map((score, place) => ({ score, place })).filter((one) => one.score !== null);
    const top = found.sort((a, b) => b.score - a.score).slice(0, HOTTEST);
    const rows = top.map(({ score, place }) => row(h("code", {}, trace.tokens[place]), whereOf(trace.first + place, trace.prompt_length), number(figure(score, 4))));
    return table(`Tokens with the highest scores of ${chosen.monitor}`, ["Token", "Where", { label: "Score", number: true }], rows, "No token has a score.");
  }

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (step === undefined) {
      return;
    }
    event.preventDefault();
    const all = [...map.querySelectorAll(".token")];
    const now = all.findIndex((one) => one.classList.contains("current"));
    const next = Math.min(all.length - 1, Math.max(0, now < 0 ? 0 : now + step));
    all[now]?.classList.remove("current");
    all[next]?.classList.add("current");
    all[next]?.scrollIntoView({ block: "nearest" });
    told.textContent = describe(next);
  }

  map.addEventListener("keydown", move);
  draw(chosen.monitor);
  return h("div", {}, names.length > 1 ? choice : null, legend, map, told, h("h3", {}, "Hottest tokens"), hottest);
}

// Tokens of the prompt and of the answer are each counted from 1.
export function whereOf(position, promptLength) {
  return position < promptLength ? `prompt, token ${position + 1}` : `answer, token ${position - promptLength + 1}`;
}

function part(label, tokens) {
  return tokens.length ? h("div", {}, h("h3", {}, label), h("p", { class: "tokens" }, tokens)) : null;
}

// From the lowest score to the highest, or to the threshold where none reaches it.
function scaleOf(scores, threshold) {
  const known = scores.filter((score) => score !== null);
  const low = Math.min(...known, threshold ?? Infinity);
  const high = Math.max(...known, threshold ?? -Infinity);
  const of = (score) => Math.round((100 * (score - low)) / (high - low || 1));
  return { low, high, of, isEmpty: known.length === 0 };
}

function bar(scale, threshold) {
  if (scale.isEmpty) {
    return h("p", { class: "muted" }, "No token has a score.");
  }
  const limit = threshold === null || threshold === undefined ? null : h("span", { class: "limit", vars: { at: `${scale.of(threshold)}%` }, title: `threshold ${figure(threshold)}` });
  return h("div", {}, h("div", { class: "ramp" }, limit), h("p", { class: "ends muted" }, h("span", {}, figure(scale.low)), limit && h("span", {}, `threshold ${figure(threshold)}`), h("span", {}, figure(scale.high))));
}
