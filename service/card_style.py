"""The style sheet of cards: light and dark by the reader's choice, no script, nothing fetched."""

STYLE = """
:root {
  color-scheme: light dark;
  --bg: #ffffff; --panel: #f4f6f8; --ink: #1b2230; --muted: #566072; --line: #d5dae1;
  --after: #1f5fbf; --before: #7a8494; --good: #146c43; --bad: #b3261e; --warn: #7a5200;
  --zone: #f7dedc; --badge: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #13161b; --panel: #1c2128; --ink: #e6e9ee; --muted: #a4adba; --line: #363d48;
    --after: #7fb2ff; --before: #98a2b1; --good: #5cc48d; --bad: #ff8f86; --warn: #e3b25f;
    --zone: #4a2523; --badge: #13161b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 56rem; background: var(--bg);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
header { border-bottom: 1px solid var(--line); padding-bottom: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .35rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0 .75rem; }
.muted, figcaption { color: var(--muted); }
figcaption { font-size: .87rem; margin: .1rem 0 .6rem; }
figure { margin: 0; }
code { font: .87em ui-monospace, monospace; }
.badge {
  display: inline-block; vertical-align: .2em; margin-left: .5rem; padding: .1rem .6rem;
  border-radius: 1rem; font-size: .8rem; font-weight: 600; color: var(--badge);
  background: var(--before);
}
.badge.succeeded { background: var(--good); }
.badge.failed { background: var(--bad); }
.badge.running { background: var(--after); }
.callout {
  margin: 1rem 0 0; padding: .75rem 1rem; border-left: 4px solid var(--bad);
  background: var(--panel);
}
progress { width: 100%; height: .8rem; accent-color: var(--after); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .6rem;
  margin: 1.25rem 0 0; padding: 0;
}
.tiles div { background: var(--panel); border-radius: .4rem; padding: .55rem .75rem; }
.tiles dt { color: var(--muted); font-size: .8rem; }
.tiles dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.wide { overflow-x: auto; margin-bottom: .75rem; }
.wide > svg { min-width: 36rem; }
td > svg { min-width: 7rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle;
}
thead th { color: var(--muted); font-size: .8rem; font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
tbody th small { display: block; font-weight: 400; color: var(--muted); }
td.number, th.number { text-align: right; white-space: nowrap; }
.passed { color: var(--good); }
.refused { color: var(--bad); font-weight: 600; }
.overridden { color: var(--warn); font-weight: 600; }
summary { cursor: pointer; color: var(--muted); }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .note { fill: var(--muted); }
svg .tick { text-anchor: middle; }
svg .track { fill: var(--panel); }
svg .zone { fill: var(--zone); }
svg .bar { fill: var(--after); }
svg .over { fill: var(--bad); }
svg .limit { stroke: var(--ink); stroke-width: 2; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .before { fill: var(--before); stroke: var(--before); }
svg .after { fill: var(--after); stroke: var(--after); }
svg line.before, svg line.after { stroke-width: 2; }
"""
