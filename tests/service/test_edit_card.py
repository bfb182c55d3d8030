"""Cards: pages that need nothing else, whose plots are to scale and whose words are escaped."""

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from service.card_plots import LABEL, VALUE, WIDTH, Bar, Pair, bar_plot, limit_plot, pair_plot
from service.edit_card import GATES, SHOWN_FITS, card_page
from service.jobs import Job, JobRecord

LIMITS = {
    "finite": 0.0,
    "growth": 10.0,
    "shift": 1.0,
    "denominator": 1e-4,
    "interference": 0.5,
    "perplexity": 1.02,
    "neighbours": 0.95,
}
GOOD = {"finite": 0.0, "growth": 2.0, "perplexity": 1.01, "neighbours": 1.0}
EVIL = "<script>alert('&\"')</script>"


def job(**fields: Any) -> Job:
    known = {"id": 7, "kind": "edit-solve", "name": "moves", "state": "succeeded"}
    known |= {"stage": "keeping", "done": 1, "total": 1, "attempt": 1, "lost": 0, "error": None}
    times = dict.fromkeys(("created_at", "started_at", "seen_at"), "2026-01-01T00:00:00.000+00:00")
    return Job(**(known | times | {"ended_at": "2026-01-01T00:01:00.000+00:00"} | fields))


def fact(i: int, **fields: Any) -> dict[str, Any]:
    known = {"digest": f"{i:064x}", "subject": f"s{i}", "prompt": "{} is", "target": "t"}
    return known | {"nll": 0.1 * (i + 1), "loss": 0.1, "steps": 25} | fields


def result(facts: list[dict[str, Any]], figures: dict[str, Any] = GOOD, **more: Any) -> Any:
    gates = {"figures": figures, "limits": LIMITS, "failed": [], "overridden": [], "beside": []}
    gates |= {name: more.pop(name) for name in ("failed", "overridden") if name in more}
    edit = {"name": "moves", "model": "m" * 64, "method": "memit", "layers": [1], "rank": 2}
    known = {"set": "5" * 64, "artifact": "7" * 64, "edit": edit | {"facts": facts, "gates": gates}}
    return known | {"stages": [{"stage": "fitting values", "seconds": 3.0}]} | more


def page(found: Any = None, **fields: Any) -> str:
    return card_page(JobRecord(job(**fields), {}, found))


class Checker(HTMLParser):
    """Refuses tags that do not close in order, and collects what a page holds."""

    VOID = ("meta",)
    SELF_CLOSING = ("rect", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}
        if tag not in (*self.VOID, *self.SELF_CLOSING):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and "script" not in checker.tags
    return checker


def shapes(svg: str, kind: str, cls: str) -> list[dict[str, str]]:
    return [e.attrib for e in ElementTree.fromstring(svg).iter(kind) if cls in e.get("class", "")]


@pytest.mark.parametrize(
    ("figure", "limit", "at_least", "refused"),
    [
        (2.0, 10.0, False, False),
        (20.0, 10.0, False, True),
        (0.99, 0.95, True, False),
        (0.5, 0.95, True, True),
        (10.0, 10.0, False, False),
    ],
)
def test_a_gate_is_drawn_to_scale(figure, limit, at_least, refused) -> None:
    svg = limit_plot(figure, limit, at_least, 0.0, "x")
    (bar,) = shapes(svg, "rect", "over" if refused else "bar")
    (line,) = shapes(svg, "line", "limit")
    (zone,) = shapes(svg, "rect", "zone")
    at = float(line["x1"])
    assert float(bar["width"]) / at == pytest.approx(figure / limit, rel=0.02)
    tinted = (float(zone["x"]), float(zone["x"]) + float(zone["width"]))
    assert tinted == pytest.approx((0, at) if at_least else (at, 240))


def test_a_scale_may_begin_elsewhere() -> None:
    svg = limit_plot(1.01, 1.02, False, 1.0, "x")
    (bar,), (line,) = shapes(svg, "rect", "bar"), shapes(svg, "line", "limit")
    assert float(bar["width"]) / float(line["x1"]) == pytest.approx(0.5, rel=0.02)
    below = limit_plot(0.9, 1.02, False, 1.0, "x")
    assert float(shapes(below, "rect", "bar")[0]["width"]) == 2.0, "the least is where it begins"


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    svg = bar_plot([Bar("a", 4.0, "4"), Bar("b", 1.0, "1"), Bar("c", 0.0, "0")], "x")
    widths = [float(bar["width"]) for bar in shapes(svg, "rect", "bar")]
    assert widths[0] == WIDTH - LABEL - VALUE
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1) and 0 < widths[2] < 2


def test_estimates_stand_where_they_are_with_their_intervals() -> None:
    half = {"value": 0.5, "low": 0.25, "high": 0.75}
    svg = pair_plot([Pair("a", half, {"value": 1.0, "low": None, "high": None})], 0.0, 1.0, "x")
    room = WIDTH - LABEL - 20
    (square,), (disc,) = shapes(svg, "rect", "before"), shapes(svg, "circle", "after")
    assert float(square["x"]) + 4 == pytest.approx(LABEL + room / 2)
    assert float(disc["cx"]) == pytest.approx(LABEL + room)
    (interval,) = shapes(svg, "line", "before")
    ends = (float(interval["x1"]), float(interval["x2"]))
    assert ends == pytest.approx((LABEL + room / 4, LABEL + 3 * room / 4))
    assert shapes(svg, "line", "after") == [], "of one case no interval is known"
    margins = pair_plot([Pair("a", None, {"value": 0.0, "low": -1.0, "high": 1.0})], -1, 1, "x")
    assert float(shapes(margins, "circle", "after")[0]["cx"]) == pytest.approx(LABEL + room / 2)
    assert shapes(margins, "rect", "before") == []


def test_a_page_holds_what_was_found_and_fetches_nothing() -> None:
    estimate = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 5}
    scores = {"cases": 5, "format": "trimtab", "unedited": {}, "edited": {"ES": estimate}}
    text = page(result([fact(0), fact(1)], scores=scores))
    words = " ".join(checked(text).words)
    for said in ("moves", "succeeded", "memit", "growth", "s0", "s1", "ES", "0.900", "7" * 64):
        assert said in words
    assert "0.200, 25 steps" in words and "fitting values" in words
    assert "http" not in text.replace('http-equiv="refresh"', "")
    assert 'http-equiv="refresh"' not in text


def test_what_clients_wrote_is_escaped() -> None:
    written = fact(0, subject=EVIL, target=EVIL, prompt={"ask": EVIL, "answer": EVIL})
    text = page(result([written]), error=EVIL, state="failed", stage=EVIL)
    assert "".join(checked(text).words).count("<script>alert") >= 4
    running = page(None, state="running", ended_at=None, stage=EVIL)
    assert "".join(checked(running).words).count("<script>alert") == 1


def test_verdicts_are_those_of_the_gates() -> None:
    figures = {"growth": 12.0, "shift": 2.0, "perplexity": 1.0, "neighbours": None}
    text = page(
        result([fact(0)], figures, failed=["growth", "neighbours"], overridden=["shift", "finite"])
    )
    row = re.compile(r'<th scope="row">(\w+)<small>.*?<td class="(\w+)">(\w+)</td></tr>')
    found = {name: (cls, word) for name, cls, word in row.findall(text)}
    assert found == {
        "growth": ("refused", "refused"),
        "shift": ("overridden", "overridden"),
        "perplexity": ("passed", "passed"),
        "neighbours": ("refused", "refused"),
    }
    assert "not a number" in text
    assert set(GATES) == set(LIMITS)


def test_a_job_that_goes_on_shows_how_far_it_is() -> None:
    text = page(None, state="running", ended_at=None, stage="fitting values", done=3, total=10)
    checked(text)
    assert '<progress id="progress" value="3" max="10">' in text
    assert 'http-equiv="refresh"' in text and "fitting values 3 of 10" in text
    waiting = page(None, state="queued", ended_at=None, stage="", done=0, total=0)
    assert "waiting for its turn" in waiting and '<progress id="progress">' in waiting


def test_of_many_facts_the_worst_are_drawn() -> None:
    facts = [fact(i) for i in range(SHOWN_FITS + 5)]
    text = page(result(facts))
    checked(text)
    assert f"The {SHOWN_FITS} worst of {SHOWN_FITS + 5}." in text
    drawn = re.findall(r"<title>(s\d+)</title>", text)
    assert drawn == [f"s{i}" for i in reversed(range(5, SHOWN_FITS + 5))]


def test_facts_about_one_subject_share_a_bar() -> None:
    text = page(result([fact(0), fact(1, subject="s0", nll=0.1), fact(2)]))
    assert len(re.findall(r"<title>s\d+</title>", text)) == 2


def test_the_gates_of_cards_are_those_of_edits() -> None:
    from editing import gates
    from service import edit_card

    assert set(GATES) == set(gates.GATES) and edit_card.AT_LEAST == gates.AT_LEAST
