"""A plan in words: what is new, what differs, what goes, and what speaks against it."""

from typing import Any

from service.commands.plan_output import outcome_lines, plan_lines


def document(name: str, action: str, **fields: Any) -> dict[str, Any]:
    known = {"kind": "Policy", "name": name, "action": action, "before": 1, "after": 2}
    rest = {"differences": [], "artifacts": {}, "artifact_differences": [], "monitors": []}
    return known | rest | fields


def plan(*documents: dict[str, Any], **fields: Any) -> list[str]:
    known = {"generation": 7, "changes": True, "documents": documents, "caches": []}
    return list(plan_lines(known | {"capacity": [], "merged": None, "refused": None} | fields))


def test_each_kind_of_change() -> None:
    added = document(
        "new",
        "add",
        before=None,
        after=1,
        differences=[{"path": "spec.steer", "after": [{"direction": "x", "on": True}]}],
        artifacts={"x": "a" * 64, "calibration/harm": "c" * 64},
        monitors=["harm", "said"],
    )
    changed = document(
        "old",
        "change",
        differences=[
            {"path": "spec.mode", "before": "off", "after": "shadow"},
            {"path": "spec.refusal", "before": "no"},
            {"path": "spec.note", "after": None},
        ],
        artifact_differences=[{"path": "y", "before": "1" * 64, "after": "2" * 64}],
        artifacts=None,
        monitors=["harm"],
    )
    removed = document("gone", "remove", before=4, after=None)
    same = [document(f"s{n}", "none") for n in range(2)]
    assert plan(added, same[0], changed, removed, same[1]) == [
        "plan for generation 7",
        "+ Policy new  revision 1, new",
        "    spec.steer: [{direction: x, on: true}]",
        "    watched by harm (calibrated)",
        "    watched by said (no calibration)",
        "    uses x aaaaaaaaaaaa",
        "    uses calibration/harm cccccccccccc",
        "~ Policy old  revision 1 -> 2",
        "    spec.mode: off -> shadow",
        "    spec.refusal: no -> (not set)",
        "    spec.note: (not set) -> null",
        "    artifact y: 111111111111… -> 222222222222…",
        "    watched by harm",
        "- Policy gone  revision 4, removed",
        "= 2 documents as they are",
    ]


def test_what_it_comes_to() -> None:
    lines = plan(
        caches=[
            {"binding": "default", "policy": None, "prompts": True, "answers": False},
            {"binding": "acme", "policy": "p", "prompts": True, "answers": True},
        ],
        capacity=[{"table": "rows", "more": 2, "free": 3, "size": 9}],
        merged=["moves"],
        refused={"message": "because"},
    )
    assert lines[1:] == [
        "caches     prompts of requests under binding default that choose nothing fork",
        "caches     prompts and answers of requests under binding acme that choose p fork",
        "capacity   2 more rows; 3 of 9 free",
        "weights    would hold moves; answers under way end first, and caches are emptied",
        "refused    because",
    ]
    assert plan(changes=False)[-1] == "nothing would change"


def test_what_a_change_did() -> None:
    outcome = {
        "generation": 8,
        "changed": [{"name": "a", "revision": 2}],
        "removed": ["b"],
        "changed_bindings": [{"name": "default", "revision": 3}],
    }
    assert list(outcome_lines(outcome)) == [
        "Policy a@2 is active",
        "Policy b is removed",
        "Binding default@3 is active",
        "generation 8",
    ]
    assert list(outcome_lines({"generation": 8})) == [
        "nothing changed: generation 8 says so already"
    ]
