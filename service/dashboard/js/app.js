// The frame of every page: who looks, what there is, and which page the address names.

import { get, send, toLogin } from "./api.js";
import { h, notice, put } from "./dom.js";
import { may } from "./format.js";
import { Live } from "./live.js";

const PAGES = [
  { name: "", label: "Overview", file: "overview", least: "viewer" },
  { name: "events", label: "Events", file: "events", one: "event", least: "viewer" },
  { name: "monitors", label: "Monitors", file: "monitors", one: "monitor", least: "viewer" },
  { name: "policies", label: "Policies", file: "policies", one: "policy", least: "viewer" },
  { name: "edits", label: "Edits", file: "edits", one: "edit", least: "viewer" },
  { name: "canaries", label: "Canaries", file: "canaries", least: "viewer" },
  { name: "requests", label: "Requests", file: "requests", one: "request", least: "viewer" },
  { name: "playground", label: "Playground", file: "playground", least: "viewer" },
  { name: "audit", label: "Audit", file: "audit", least: "admin" },
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const state = document.getElementById("live");
let leaving = new AbortController();

const live = new Live((name) => {
  state.textContent = name;
  state.dataset.state = name;
});

async function start() {
  const who = await get("session");
  document.getElementById("who").textContent = `${who.name} (${who.role})`;
  document.getElementById("leave").addEventListener("click", leave);
  document.getElementById("skip").addEventListener("click", skip);
  const served = PAGES.filter((page) => may(who, page.least));
  put(nav, served.map((page) => h("a", { href: `#/${page.name}`, "data-page": page.name }, page.label)));
  addEventListener("hashchange", () => show(who, served, true));
  live.start().catch(() => live.onState("off"));
  await show(who, served, false);
}

async function show(who, served, moves) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const page = served.find((one) => one.name === name);
  const target = rest.length ? decodeURIComponent(rest.join("/")) : null;
  nav.querySelectorAll("a").forEach((link) => mark(link, link.dataset.page === name));
  document.title = `${target ?? page?.label ?? "No such page"}: Trimtab`;
  const section = h("div", { class: "page", "data-page": page ? (target === null ? page.file : page.one) : "none" });
  put(main, section);
  if (!page || (target !== null && !page.one)) {
    put(section, h("h1", {}, "No such page"), h("p", {}, "There is nothing here, or your key does not show it."));
    section.dataset.ready = "yes";
    return;
  }
  const module = await import(`./pages/${target === null ? page.file : page.one}.js`);
  await module
    .render({ section, who, live, signal, target, query: new URLSearchParams(query) })
    .catch((error) => signal.aborted || failed(section, page, error));
  section.dataset.ready = "yes";
  if (moves && !signal.aborted) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function mark(link, isHere) {
  if (isHere) {
    link.setAttribute("aria-current", "page");
  } else {
    link.removeAttribute("aria-current");
  }
}

function failed(section, page, error) {
  put(section, h("h1", {}, page.label), notice(error.message, "bad"));
}

function skip(event) {
  event.preventDefault();
  main.focus();
}

async function leave() {
  live.stop();
  await send("DELETE", "session").catch(() => null);
  toLogin();
}

start();
