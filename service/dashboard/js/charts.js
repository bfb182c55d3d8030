// Lines over time by uPlot, histograms and sparklines as SVG of our own; colours come from the style sheet.

import { h, s } from "./dom.js";

const HEIGHT = 180;
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
const HUES = 6;

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A chart has its height from the start, so that nothing moves when its figures come.
export function lines(title, signal) {
  const place = h("div", { class: "chart", role: "img", "aria-label": title, vars: { height: `${HEIGHT}px` } });
  const legend = h("ul", { class: "legend" });
  const figure = h("figure", {}, h("figcaption", {}, title), place, legend);
  let plot = null;
  let shown = null;

  function draw() {
    plot?.destroy();
    plot = new uPlot(options(shown, place.clientWidth), [shown.times, ...Object.values(shown.series)], place);
    const names = Object.keys(shown.series);
    legend.replaceChildren(...names.map((name, place) => key(name, place)));
    place.setAttribute("aria-label", `${title}: ${names.map((name) => `${name} ${total(shown.series[name])}`).join(", ") || "none"}`);
  }

  function update(times, series) {
    const isSame = shown && plot && Object.keys(series).join() === Object.keys(shown.series).join();
    shown = { times, series };
    if (isSame) {
      plot.setData([times, ...Object.values(series)]);
    } else if (place.isConnected) {
      draw();
    }
  }

  const sized = new ResizeObserver(() => shown && (plot ? plot.setSize({ width: place.clientWidth, height: HEIGHT }) : draw()));
  sized.observe(place);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => shown && draw(), { signal });
  signal.addEventListener("abort", () => {
    sized.disconnect();
    plot?.destroy();
  });
  return { figure, update };
}

function total(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

function key(name, place) {
  const line = s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("line", { x1: 0, x2: 26, y1: 5, y2: 5, class: `hue-${place % HUES}`, "stroke-dasharray": DASHES[place % DASHES.length].join(" ") }));
  return h("li", {}, line, name);
}

function options(shown, width) {
  const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui" };
  const series = Object.keys(shown.series).map((name, place) => ({
    label: name,
    stroke: colour(`hue-${place % HUES}`),
    dash: DASHES[place % DASHES.length],
    width: 2,
    points: { show: false },
  }));
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(4, high * 1.1)] } },
    axes: [{ ...axis, values: (_, ticks) => ticks.map(hour) }, { ...axis, size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000] }],
    series: [{}, ...series],
  };
}

const HOUR = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

function hour(seconds) {
  return HOUR.format(new Date(seconds * 1000));
}

export function sparkline(values, label) {
  const [width, height] = [120, 24];
  const most = Math.max(1, ...values);
  const points = values.map((value, place) => `${((place / Math.max(1, values.length - 1)) * width).toFixed(1)},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`);
  return s("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label}: ${total(values)}` }, s("polyline", { points: points.join(" ") }));
}

// Counts by bin as shares of their sum; ``marks`` are thresholds.
export function histogram(title, edges, layers, marks) {
  const [width, height, foot] = [1100, 220, 26];
  const low = edges[0];
  const x = (value) => ((value - low) / (edges.at(-1) - low)) * width;
  const shares = layers.map((layer) => layer.counts.map((n) => n / Math.max(1, total(layer.counts))));
  const most = Math.max(1e-9, ...shares.flat());
  const bars = shares.flatMap((share, which) => share.map((value, bin) => bar(value / most, edges, bin, which, layers.length, x, height - foot)));
  const lines = marks.map((mark) => s("g", {}, s("line", { class: "limit", x1: x(mark), x2: x(mark), y1: 0, y2: height - foot }), s("text", { x: x(mark) + (x(mark) > width - 90 ? -4 : 4), y: 12, "text-anchor": x(mark) > width - 90 ? "end" : "start" }, `threshold ${Number(mark.toPrecision(3))}`)));
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * (edges.at(-1) - low));
  const axis = ticks.map((tick, place) => s("text", { class: "note", x: x(tick), y: height - 8, "text-anchor": place === 0 ? "start" : place === 4 ? "end" : "middle" }, String(Number(tick.toPrecision(3)))));
  const plot = s("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, "aria-label": title }, s("line", { class: "grid", x1: 0, x2: width, y1: height - foot, y2: height - foot }), bars, lines, axis);
  const names = layers.map((layer, place) => h("li", {}, s("svg", { width: 14, height: 14, "aria-hidden": "true" }, s("rect", { class: `layer-${place}`, width: 14, height: 14 })), layer.label));
  return h("figure", {}, h("figcaption", {}, title), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title }, plot), h("ul", { class: "legend" }, names));
}

// The first layer fills its bin; the others share it, side by side.
function bar(part, edges, bin, which, layers, x, room) {
  const wide = x(edges[bin + 1]) - x(edges[bin]);
  const [start, width] = which === 0 ? [0, wide] : [(0.15 + (0.7 * (which - 1)) / (layers - 1)) * wide, (0.7 * wide) / (layers - 1)];
  return s("rect", { class: `layer-${which}`, x: (x(edges[bin]) + start).toFixed(2), width: Math.max(0.5, width - 0.5).toFixed(2), y: (room * (1 - part)).toFixed(2), height: (room * part).toFixed(2) });
}
