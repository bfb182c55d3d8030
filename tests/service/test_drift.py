"""Recent scores: kept within bounds, compared with the calibration that holds."""

from dataclasses import replace

import pytest

from service.drift import RecentScores
from service.verdicts import Verdict
from service.watch import Watched
from tests.service.monitored import calibration, monitored, plan_of

PLAN = plan_of(monitored(), "harm")


def verdict(score: float | None, monitor: str = "harm", policy: str = "p@3") -> Verdict:
    return Verdict(
        monitor, "prompt", policy, "shadow", "log", score, 1.0, 0.1 if score is not None else None,
        False, None, None, False, 1, 1, {}, None, "block",
    )  # fmt: skip


def watched(policy: str = "p", monitor: str = "harm", n: int = 999, writes: str = "") -> Watched:
    found = calibration(PLAN, writes, n).content
    return Watched(
        f"{policy}@3", policy, monitor, "shadow", "log", "block", PLAN, 1.0, found, "No."
    )


def test_the_window_keeps_the_last_scores():
    recent = RecentScores(window=50)
    for score in [*[1e6] * 500, *range(0, 1000, 20)]:
        recent.note(verdict(float(score)))
    [(use, drift)] = recent.found([watched()]).items()
    assert (use, drift.scores) == (("harm", "p"), 50)
    assert drift.psi < 0.1


def test_scores_that_moved_are_seen():
    recent = RecentScores()
    for score in range(500):
        recent.note(verdict(900.0 + score % 10))
    assert recent.found([watched()])["harm", "p"].psi > 1


def test_what_has_no_calibration_or_is_no_number_is_not_kept():
    recent = RecentScores()
    recent.note(verdict(None))
    recent.note(replace(verdict(1.0), rarity=None))
    recent.note(verdict(float("nan")))
    assert recent.found([watched()]) == {}


def test_names_that_answers_use_for_shared_monitors_are_the_monitors():
    recent = RecentScores()
    recent.note(verdict(1.0, monitor="p/harm"))
    assert list(recent.found([watched()])) == [("harm", "p")]


def test_uses_are_bounded_and_room_is_made_when_one_ends():
    recent = RecentScores(most=2)
    for policy in ("a@1", "b@1", "c@1"):
        recent.note(verdict(1.0, policy=policy))
    uses = [watched("a"), watched("b"), watched("c")]
    assert list(recent.found(uses)) == [("harm", "a"), ("harm", "b")]
    assert list(recent.found(uses[1:])) == [("harm", "b")]
    recent.note(verdict(1.0, policy="c@1"))
    assert list(recent.found(uses)) == [("harm", "b"), ("harm", "c")]


def test_another_calibration_makes_other_bins_and_another_plan_another_start():
    recent = RecentScores()
    for score in range(200):
        recent.note(verdict(float(score)))
    assert recent.found([watched(n=200)])["harm", "p"].psi < 0.1
    wider = watched(n=4000, writes="w" * 64)
    assert recent.found([wider])["harm", "p"].psi > 1
    assert wider.calibration is not None
    binding = replace(wider.calibration.binding, plan="9" * 64)
    other = replace(wider, calibration=replace(wider.calibration, binding=binding))
    assert recent.found([other]) == {}


@pytest.mark.parametrize("calibrated", [True, False])
def test_only_uses_with_a_calibration_count(calibrated: bool):
    recent = RecentScores()
    recent.note(verdict(1.0))
    use = watched() if calibrated else replace(watched(), calibration=None)
    assert bool(recent.found([use])) == calibrated
