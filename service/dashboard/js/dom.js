// Makes elements. Text is always text: nothing here takes markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    set(element, name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) {
    return;
  }
  if (name.startsWith("on")) {
    element.addEventListener(name.slice(2), value);
  } else if (name === "vars") {
    // Custom properties by script: the page's policy forbids style attributes in markup.
    Object.entries(value).forEach(([variable, content]) => element.style.setProperty(`--${variable}`, content));
  } else {
    element.setAttribute(name, value === true ? "" : value);
  }
}

export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return element;
}

export function table(caption, heads, rows, empty) {
  const body = rows.length ? rows : [h("tr", {}, h("td", { colspan: heads.length, class: "muted" }, empty ?? "None."))];
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head.number && "number" }, head.label ?? head)))),
      h("tbody", {}, body),
    ),
  );
}

export function row(...cells) {
  return h("tr", {}, cells.map((cell, place) => (place === 0 ? h("th", { scope: "row" }, cell) : cell instanceof HTMLTableCellElement ? cell : h("td", {}, cell))));
}

export function number(text) {
  return h("td", { class: "number" }, text);
}

export function badge(text, kind = "") {
  return h("span", { class: `badge ${kind}` }, text);
}

export function tiles(entries) {
  return h("dl", { class: "tiles" }, entries.map(([label, value, kind]) => h("div", {}, h("dt", {}, label), h("dd", { class: kind }, value))));
}

export function notice(text, kind = "") {
  return h("p", { class: `callout ${kind}`, role: kind === "bad" ? "alert" : "status" }, text);
}

export function json(value) {
  return h("pre", { tabindex: "0", role: "region", "aria-label": "Document" }, JSON.stringify(value, null, 2));
}
