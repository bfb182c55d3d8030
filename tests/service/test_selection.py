"""Selection, checked against a table of who may choose what."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from service.catalog import Catalog, advance
from service.documents import Document
from service.records import Revision
from service.selection import HEADER, Selection, SelectionError, choices, parse_model, select

Make = Callable[..., Document]


@pytest.fixture
def catalog(policy: Make, binding: Make) -> Callable[..., Catalog]:
    """Return a function that makes a catalog under a binding."""
    documents = [
        policy("formal", strength={"default": 1, "min": 0, "max": 2}),
        policy("casual", strength={"default": 0.5, "min": -1, "max": 1}),
        policy("guard"),
        policy("hidden", selectable=False),
        policy("trial", mode="shadow"),
        policy("retired", mode="off"),
    ]

    def make(**spec: Any) -> Catalog:
        bound = [*documents, binding(**spec)]
        revisions = [
            Revision(d.kind, d.name, 1, d.digest, d.content, {}, "directory", "now") for d in bound
        ]
        return advance(Catalog(), revisions)[0]

    return make


def names(selection: Selection) -> tuple[list[str], str | None]:
    chosen = selection.chosen.name if selection.chosen else None
    return [policy.name for policy in selection.mandatory], chosen


def refused(catalog: Catalog, **request: Any) -> tuple[int, str, str | None]:
    with pytest.raises(SelectionError) as raised:
        select(catalog, **request)
    return raised.value.status, raised.value.code, raised.value.param


def test_each_of_the_three_ways_names_a_policy(catalog: Callable[..., Catalog]) -> None:
    for way in ("alias", "body", "header"):
        assert names(select(catalog(), **{way: "formal"})) == ([], "formal")
    everywhere = dict.fromkeys(("alias", "body", "header"), "formal")
    assert names(select(catalog(), **everywhere)) == ([], "formal")


def test_two_different_names_are_refused_in_every_combination(
    catalog: Callable[..., Catalog],
) -> None:
    for one, other in permutations(("alias", "body", "header"), 2):
        for second in ("casual", "none", "unknown"):
            found = refused(catalog(), **{one: "formal", other: second})
            assert found[:2] == (400, "conflicting_policies")


@pytest.mark.parametrize(
    ("spec", "request_", "expected"),
    [
        ({}, {}, ([], None)),
        ({"policy": "casual"}, {}, ([], "casual")),
        ({"policy": "hidden"}, {}, ([], "hidden")),
        ({"policy": "retired"}, {}, ([], None)),
        ({"policy": "casual"}, {"body": "none"}, ([], None)),
        ({"policy": "casual"}, {"body": "formal"}, ([], "formal")),
        ({"policy": "casual"}, {"body": None, "header": "formal"}, ([], "formal")),
        ({"mandatory": ["guard"]}, {"alias": "none"}, (["guard"], None)),
        ({"mandatory": ["guard"]}, {"body": "formal"}, (["guard"], "formal")),
        ({"mandatory": ["guard", "retired"]}, {}, (["guard"], None)),
        ({"policy": "casual", "choices": ["formal"]}, {}, ([], "casual")),
        ({"choices": ["formal", "none"]}, {"body": "none"}, ([], None)),
    ],
)
def test_who_gets_what(
    catalog: Callable[..., Catalog],
    spec: dict[str, Any],
    request_: dict[str, Any],
    expected: tuple[list[str], str | None],
) -> None:
    assert names(select(catalog(**spec), **request_)) == expected


@pytest.mark.parametrize(
    ("spec", "name", "status", "code"),
    [
        ({}, "unknown", 404, "policy_not_found"),
        ({}, "", 404, "policy_not_found"),
        ({}, "Formal", 404, "policy_not_found"),
        ({}, "../formal", 404, "policy_not_found"),
        ({}, "retired", 404, "policy_not_found"),
        ({}, "hidden", 403, "policy_not_allowed"),
        ({"choices": ["casual"]}, "formal", 403, "policy_not_allowed"),
        ({"choices": ["casual"]}, "none", 403, "policy_not_allowed"),
        ({"choices": []}, "none", 403, "policy_not_allowed"),
        ({"choices": ["hidden"]}, "hidden", 403, "policy_not_allowed"),
        ({"mandatory": ["guard"]}, "guard", 403, "policy_not_allowed"),
        ({}, 3, 400, "invalid_policy"),
        ({}, ["formal"], 400, "invalid_policy"),
        ({}, False, 400, "invalid_policy"),
    ],
)
def test_what_is_refused(
    catalog: Callable[..., Catalog], spec: dict[str, Any], name: object, status: int, code: str
) -> None:
    ways = (("alias", "model"), ("body", "policy"), ("header", HEADER))
    for way, param in ways:
        assert refused(catalog(**spec), **{way: name}) == (status, code, param)


def test_a_policy_in_shadow_is_chosen_and_not_applied(catalog: Callable[..., Catalog]) -> None:
    selection = select(catalog(mandatory=["guard"]), body="trial")
    assert names(selection) == (["guard"], "trial")
    assert not selection.applied
    assert [policy.applied for policy in selection.policies] == [True, False]
    assert select(catalog(), body="formal").applied


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("formal", None, 1.0),
        ("casual", None, 0.5),
        ("formal", 0, 0.0),
        ("formal", 2, 2.0),
        ("formal", 1.25, 1.25),
        ("casual", -1, -1.0),
        (None, None, 1.0),
    ],
)
def test_strengths_in_range(
    catalog: Callable[..., Catalog], name: str | None, given: object, expected: float
) -> None:
    assert select(catalog(), body=name, strength=given).strength == expected


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("formal", 2.0001),
        ("formal", -0.1),
        ("formal", True),
        ("formal", "1"),
        ("formal", [1]),
        ("formal", math.nan),
        ("formal", math.inf),
        ("formal", 10**400),
        (None, 1),
        ("none", 1),
    ],
)
def test_strengths_that_are_refused(
    catalog: Callable[..., Catalog], name: str | None, given: object
) -> None:
    assert refused(catalog(), body=name, strength=given) == (400, "invalid_strength", "strength")


def test_the_strength_of_a_default_policy_is_the_clients_too(
    catalog: Callable[..., Catalog],
) -> None:
    assert select(catalog(policy="formal"), strength=2).strength == 2.0


def test_what_can_be_chosen_is_what_is_listed(catalog: Callable[..., Catalog]) -> None:
    some = ["formal", "hidden", "retired", "none"]
    for spec in ({}, {"mandatory": ["guard"]}, {"choices": some}):
        made = catalog(**spec)
        listed = {policy.name for policy in choices(made)}
        for name in made.policies:
            if name in listed:
                assert names(select(made, body=name))[1] == name
            else:
                refused(made, body=name)
    assert [policy.name for policy in choices(catalog())] == ["casual", "formal", "guard", "trial"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("demo", ("demo", None)),
        ("demo:formal", ("demo", "formal")),
        ("demo:", ("demo", "")),
        ("demo:lora", ("demo:lora", None)),
        ("demo:lora:formal", ("demo:lora", "formal")),
        ("demo:lora2", ("demo", "lora2")),
        ("org/model:v1", ("org/model:v1", None)),
        ("org/model:v1:a:b", ("org/model:v1", "a:b")),
        ("other:formal", ("other:formal", None)),
        ("demolition", ("demolition", None)),
        ("", ("", None)),
    ],
)
def test_the_longest_name_is_the_model(model: str, expected: tuple[str, str | None]) -> None:
    assert parse_model(model, ["demo", "org/model:v1", "demo:lora"]) == expected
