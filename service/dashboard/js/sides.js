// Two answers to one prompt beside each other; words that only one of them has are marked.

import { h } from "./dom.js";

// ``steered`` and ``unsteered`` are texts, ``policy`` a label such as name@revision.
export function sides(policy, steered, unsteered) {
  const [left, right] = marked(words(steered), words(unsteered));
  return h("div", { class: "columns sides" }, side("steered", `Under ${policy}`, left), side("unsteered", "Under no policy", right));
}

function side(name, title, parts) {
  const said = parts.length ? parts : h("span", { class: "muted" }, "Nothing was said.");
  return h("section", { "data-side": name }, h("h3", {}, title), h("p", { class: "answer" }, said));
}

function words(text) {
  return text.match(/\s*\S+/g) ?? [];
}

// Marks what is not in the longest common subsequence; both texts are a few hundred words at most.
function marked(left, right) {
  const a = left.map((word) => word.trim());
  const b = right.map((word) => word.trim());
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const kept = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      kept[0].add(i++);
      kept[1].add(j++);
    } else if (common[i + 1][j] >= common[i][j + 1]) {
      i += 1;
    } else {
      j += 1;
    }
  }
  return [left, right].map((texts, which) => texts.map((text, place) => (kept[which].has(place) ? text : h("mark", {}, text))));
}
