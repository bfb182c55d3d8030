"""The card of a job on edits as a page: what was solved, its gates, its fit, before and after."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from service.card_plots import Bar, Pair, bar_plot, limit_plot, pair_plot
from service.card_style import STYLE
from service.jobs import Job, JobRecord

SHOWN_FITS = 40
SHOWN_FACTS = 500
REFRESH_SECONDS = 2
AT_LEAST = ("denominator", "neighbours")
"""Gates whose figure must not be below its limit."""
BEGINS = {"perplexity": 1.0}
"""Where a gate's scale begins, if not at 0."""

GATES = {
    "finite": "values that are not finite",
    "growth": "norm of the change, of the matrix",
    "shift": "how far ordinary outputs move",
    "denominator": "least cosine of a key, whitened",
    "interference": "most overlap with edits beside it",
    "perplexity": "on unrelated text, after over before",
    "neighbours": "probes whose next token stays",
}
METRICS = {
    "ES": "edited prompt (ES)",
    "PS": "paraphrases (PS)",
    "NS": "neighbours (NS)",
    "S": "harmonic mean (S)",
    "EM": "edited prompt (EM)",
    "PM": "paraphrases (PM)",
    "NM": "neighbours (NM)",
    "E_acc": "edited prompt, said",
    "P_acc": "paraphrases, said",
    "N_acc": "neighbours, said",
    "same_subject": "same subject, other relations",
    "free": "free answers",
    "hops": "what follows from it",
}
MAGNITUDES = ("EM", "PM", "NM")
KINDS = {"edit-solve": "Solving an edit set", "edit-evaluate": "Evaluating an edit"}


def card_page(record: JobRecord) -> str:
    """Return a job's card as one page of HTML that needs nothing else."""
    job = record.job
    refresh = "" if job.is_over else f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{refresh}<title>{escape(job.name)}: {job.state}</title><style>{STYLE}</style></head>"
        f"<body>{_header(job)}<main>{_body(record.result or {})}</main></body></html>\n"
    )


def _header(job: Job) -> str:
    times = [f"asked {_time(job.created_at)}"]
    times += [f"ended {_time(job.ended_at)}"] if job.ended_at else []
    line = " · ".join([KINDS[job.kind], f"job {job.id}", *times])
    return (
        f'<header><h1>{escape(job.name)} <span class="badge {job.state}">{job.state}</span></h1>'
        f'<p class="muted">{line}</p>{_error(job)}{_progress(job)}</header>'
    )


def _error(job: Job) -> str:
    return "" if job.error is None else f'<p class="callout" role="alert">{escape(job.error)}</p>'


def _progress(job: Job) -> str:
    if job.is_over:
        return ""
    stage = job.stage or "waiting for its turn"
    counted = f" {job.done} of {job.total}" if job.total > 1 else ""
    value = f' value="{job.done}" max="{job.total}"' if job.total > 1 else ""
    return (
        f'<p><label for="progress">{escape(stage)}{counted}</label>'
        f'<progress id="progress"{value}></progress></p>'
    )


def _body(result: Mapping[str, Any]) -> str:
    edit: Mapping[str, Any] = result.get("edit", {})
    parts: list[str] = []
    if edit:
        parts += [_tiles(edit, result), _gates(edit["gates"]), _fits(edit["facts"])]
    if result.get("scores"):
        parts.append(_scores(result["scores"]))
    if edit:
        parts.append(_facts(edit["facts"]))
    if result.get("stages"):
        parts.append(_stages(result["stages"]))
    return "".join([*parts, _origin(result, edit)] if edit else parts)


def _tiles(edit: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    seconds = sum(one["seconds"] for one in result["stages"])
    tiles = {
        "facts": str(len(edit["facts"])),
        "method": edit["method"],
        "layers": ", ".join(map(str, edit["layers"])),
        "rank": str(edit["rank"]),
        "time": "solved before" if result.get("cached") else f"{seconds:.1f} s",
    }
    cells = (f"<div><dt>{name}</dt><dd>{escape(v)}</dd></div>" for name, v in tiles.items())
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _gates(gates: Mapping[str, Any]) -> str:
    rows = "".join(_gate(name, gates) for name in GATES if name in gates["figures"])
    return _section(
        "Gates",
        "Each gate on its own scale: the line is its limit, and the tinted side of it refuses.",
        _table(("gate", "", "figure|", "limit|", "verdict"), rows),
    )


def _gate(name: str, gates: Mapping[str, Any]) -> str:
    figure, limit = gates["figures"][name], gates["limits"][name]
    verdict = _verdict(name, gates)
    plot = ""
    if figure is not None and (figure, limit) != (0.0, 0.0):
        words = f"{name}: {figure:.4g}, limit {limit:g}, {verdict}"
        plot = limit_plot(figure, limit, name in AT_LEAST, BEGINS.get(name, 0.0), words)
    return (
        f'<tr><th scope="row">{name}<small>{GATES[name]}</small></th><td>{plot}</td>'
        f'<td class="number">{_figure(figure)}</td>'
        f'<td class="number">{"≥" if name in AT_LEAST else "≤"} {limit:g}</td>'
        f'<td class="{verdict}">{verdict}</td></tr>'
    )


def _verdict(name: str, gates: Mapping[str, Any]) -> str:
    if name in gates["failed"]:
        return "refused"
    figure, limit = gates["figures"][name], gates["limits"][name]
    holds = figure is not None and (figure >= limit if name in AT_LEAST else figure <= limit)
    return "passed" if holds else "overridden"


def _fits(facts: Sequence[Mapping[str, Any]]) -> str:
    known = {(f["subject"], f["nll"]): f for f in facts if f.get("nll") is not None}
    worst = sorted(known.values(), key=lambda fact: -fact["nll"])[:SHOWN_FITS]
    if not worst:
        return ""
    bars = [Bar(f["subject"], f["nll"], f"{f['nll']:.3f}, {f['steps']} steps") for f in worst]
    cut = f" The {SHOWN_FITS} worst of {len(known)}." if len(known) > SHOWN_FITS else ""
    note = (
        "Negative log-likelihood a target token once the value is in place, by subject; "
        f"0 is certain.{cut}"
    )
    return _section("Fit", note, _wide(bar_plot(bars, "Negative log-likelihood by subject")))


def _scores(scores: Mapping[str, Any]) -> str:
    before, after = scores["unedited"], scores["edited"]
    names = [*(n for n in METRICS if n in after), *(n for n in after if n not in METRICS)]
    pairs = {n: Pair(METRICS.get(n) or n, before.get(n), after.get(n)) for n in names}
    shares = [pair for name, pair in pairs.items() if name not in MAGNITUDES]
    sizes = [pair for name, pair in pairs.items() if name in MAGNITUDES]
    plots = _wide(pair_plot(shares, 0.0, 1.0, "Shares before and after")) if shares else ""
    if sizes:
        margins = _wide(pair_plot(sizes, -1.0, 1.0, "Margins before and after"))
        plots += f'<p class="muted">Margins of probability, from −1 to 1:</p>{margins}'
    rows = "".join(
        f'<tr><th scope="row">{escape(pair.label)}</th><td class="number">{_range(pair.before)}'
        f'</td><td class="number">{_range(pair.after)}</td></tr>'
        for pair in pairs.values()
    )
    counted = "1 case" if scores["cases"] == 1 else f"{scores['cases']} cases"
    note = (
        f"{counted}; grey squares: the unedited model, blue discs: with the edit; "
        "lines: 95 % intervals."
    )
    table = _table(("metric", "unedited|", "edited|"), rows)
    return _section("Before and after", note, plots + table)


def _facts(facts: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(f['digest'][:12])}</code></td><td>{escape(f['subject'])}</td>"
        f"<td>{escape(_wording(f['prompt']))}</td><td>{escape(f['target'])}</td></tr>"
        for f in facts[:SHOWN_FACTS]
    )
    table = _table(("fact", "subject", "prompt", "target"), rows)
    cut = f"<p>The first {SHOWN_FACTS} of them.</p>" if len(facts) > SHOWN_FACTS else ""
    opened = " open" if len(facts) <= 20 else ""
    return (
        f"<section><h2>Facts</h2><details{opened}><summary>{len(facts)} in the set</summary>"
        f"{cut}{table}</details></section>"
    )


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    bars = [Bar(one["stage"], one["seconds"], f"{one['seconds']:.2f} s") for one in stages]
    return _section("Time", "Seconds of each stage.", _wide(bar_plot(bars, "Seconds by stage")))


def _origin(result: Mapping[str, Any], edit: Mapping[str, Any]) -> str:
    named = {"set": result.get("set"), "artifact": result.get("artifact"), "model": edit["model"]}
    known = ((name, digest) for name, digest in named.items() if digest)
    rows = (f"<tr><th>{n}</th><td><code>{escape(d)}</code></td></tr>" for n, d in known)
    return f"<section><h2>Identity</h2>{_table((), ''.join(rows))}</section>"


def _section(title: str, note: str, content: str) -> str:
    caption = f"<figcaption>{note}</figcaption>"
    return f"<section><h2>{title}</h2><figure>{caption}{content}</figure></section>"


def _table(columns: Iterable[str], rows: str) -> str:
    """Return a table; a column whose title ends with a bar holds numbers."""
    head = "".join(
        f'<th scope="col"{" class=number" if c.endswith("|") else ""}>{escape(c.rstrip("|"))}</th>'
        for c in columns
    )
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return _wide(f"<table>{top}<tbody>{rows}</tbody></table>")


def _wide(content: str) -> str:
    """Return what scrolls by itself where the page is narrower."""
    return f'<div class="wide">{content}</div>'


def _range(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    if estimate["low"] is None or estimate["high"] is None:
        return _figure(estimate["value"])
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _figure(figure: float | None) -> str:
    return "not a number" if figure is None else f"{figure:.4g}"


def _wording(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return " → ".join(filter(None, [prompt["ask"], prompt.get("answer", "")]))


def _time(at: str | None) -> str:
    return "" if at is None else f'<time datetime="{at}">{at[:19].replace("T", " ")} UTC</time>'
