"""Shadow beside enforced, counted by hand."""

from typing import Any

from service.verdict_report import EXAMPLES, uses_of


def verdict(policy: str, mode: str, fired: bool, action: str = "none", fault: str | None = None):
    return {
        "policy": policy,
        "mode": mode,
        "do": "refuse",
        "action": action,
        "fired": fired,
        "fault": fault,
    }


def record(request: str, *choices: dict[str, Any]) -> dict[str, Any]:
    return {"request": request, "choices": [{"verdicts": one} for one in choices]}


ON = verdict("guard@1", "enforce", True, "refuse")
QUIET = verdict("guard@1", "enforce", False)
SHADOW, CALM = verdict("next@2", "shadow", True), verdict("next@2", "shadow", False)


def test_each_way_to_differ_is_counted_and_named() -> None:
    records = [
        record("both", {"harm": ON, "next/harm": SHADOW}),
        record("alone", {"harm": QUIET, "next/harm": SHADOW}),
        record("missed", {"harm": ON, "next/harm": CALM}),
        record("neither", {"harm": QUIET, "next/harm": CALM}),
        record("two", {"harm": ON, "next/harm": CALM}, {"harm": QUIET, "next/harm": SHADOW}),
        record("unwatched", {}),
    ]
    guard, shadow = (use.shown() for use in uses_of(records))
    assert guard == {
        "policy": "guard@1",
        "monitor": "harm",
        "mode": "enforce",
        "do": "refuse",
        "choices": 6,
        "fired": 3,
        "acted": 3,
        "faults": 0,
    }
    assert (shadow["choices"], shadow["fired"], shadow["acted"]) == (6, 3, 0)
    assert (shadow["agreed"], shadow["alone"], shadow["missed"]) == (1, 2, 2)
    assert shadow["examples"] == {"alone": ["alone", "two"], "missed": ["missed", "two"]}


def test_a_fault_that_is_let_through_is_no_act() -> None:
    passed = verdict("guard@1", "enforce", False, "pass", "calibration")
    guard, shadow = uses_of([record("r", {"harm": passed, "next/harm": SHADOW})])
    assert (guard.faults, guard.acted, shadow.alone) == (1, 0, 1)


def test_revisions_and_modes_are_apart_and_examples_few() -> None:
    other = verdict("next@3", "shadow", True)
    records = [record(f"r{i}", {"m": one}) for i in range(9) for one in (SHADOW, other)]
    first, second = uses_of(records)
    assert (first.policy, second.policy) == ("next@2", "next@3")
    assert first.alone == 9
    assert first.examples["alone"] == [f"r{i}" for i in range(EXAMPLES)]
