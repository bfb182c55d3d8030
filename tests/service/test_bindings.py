"""Bindings: whose they are, what they make mandatory, and who is drawn into a canary."""

import math
from typing import Any

import pytest

from service.binding_schema import BindingSpec, Canary
from service.bindings import (
    BindingError,
    BindingRevision,
    Bindings,
    canary_digest,
    check_bindings,
    in_share,
    stacks_of,
)
from service.callers import ANONYMOUS, Caller
from service.documents import DocumentsError, parse_content
from service.schemas import PolicySpec

PLAIN = PolicySpec()
POLICIES = dict.fromkeys(("guard", "strict", "formal", "casual", "next"), PLAIN)


def spec(**fields: Any) -> BindingSpec:
    return BindingSpec.model_validate(fields)


def mandated(**bindings: BindingSpec) -> dict[str, tuple[str, ...]]:
    return check_bindings(bindings, POLICIES)


ACME = {"for": {"tenants": ["acme"]}}


def test_what_is_mandatory_by_default_is_so_everywhere_unless_a_binding_says_not() -> None:
    found = mandated(
        default=spec(mandatory=["guard"]),
        more=spec(**{"for": {"tenants": ["a"]}}, mandatory=["strict"]),
        same=spec(**{"for": {"tenants": ["b"]}}, mandatory=["guard", "strict"]),
        free=spec(**{"for": {"tenants": ["c"]}}, inherit=False, mandatory=["strict"]),
    )
    assert found == {
        "default": ("guard",),
        "more": ("guard", "strict"),
        "same": ("guard", "strict"),
        "free": ("strict",),
    }


@pytest.mark.parametrize("field", [{"policy": "guard"}, {"choices": ["guard"]}])
def test_what_is_inherited_is_not_chosen_too(field: dict[str, Any]) -> None:
    bindings = {"default": spec(mandatory=["guard"]), "acme": spec(**ACME, **field)}
    with pytest.raises(BindingError, match="inherit: false") as raised:
        check_bindings(bindings, POLICIES)
    assert raised.value.code == "applies_twice"
    assert mandated(default=spec(), acme=spec(**ACME, **field))["acme"] == ()


def test_a_key_comes_before_its_tenant_and_both_before_the_default() -> None:
    bound = {
        "default": BindingRevision(1, spec(), "api", "default"),
        "key": BindingRevision(1, spec(**{"for": {"keys": ["ann"]}}), "api", "key"),
        "tenant": BindingRevision(1, spec(**ACME), "api", "tenant"),
    }
    bindings = Bindings(bound)
    assert bindings.of(Caller("k1", "ann", "infer", "acme")).name == "key"
    assert bindings.of(Caller("k2", "bob", "infer", "acme")).name == "tenant"
    assert bindings.of(Caller("k3", "bob", "infer", None)).name == "default"
    # A name is not an identity: whoever has no key of ours is nobody in particular.
    assert bindings.of(Caller("", "ann", "infer", None)).name == "default"
    assert bindings.of(ANONYMOUS).name == "default"
    assert Bindings().of(ANONYMOUS).revision == 0


@pytest.mark.parametrize("whose", [{"keys": ["ann"]}, {"tenants": ["acme"]}])
def test_no_caller_falls_under_two(whose: dict[str, Any]) -> None:
    two = {"a": spec(**{"for": whose}), "b": spec(**{"for": whose})}
    with pytest.raises(BindingError, match="'a' and 'b'") as raised:
        check_bindings(two, POLICIES)
    assert raised.value.code == "ambiguous_binding"


@pytest.mark.parametrize(
    ("name", "fields"),
    [("acme", {}), ("default", ACME), ("acme", {"for": {}}), ("none", ACME)],
)
def test_only_the_default_is_for_all_others(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(DocumentsError):
        parse_content(
            {
                "apiVersion": "trimtab/v1",
                "kind": "Binding",
                "metadata": {"name": name},
                "spec": fields,
            }
        )


def canary(**fields: Any) -> Canary:
    return Canary.model_validate({"policy": "next", "replaces": "formal", "share": 0.1} | fields)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (
            {
                "canary": {"policy": "next", "replaces": "casual", "share": 0.1},
                "choices": ["formal"],
            },
            "canary_replaces_nothing",
        ),
        (
            {
                "canary": {"policy": "next", "replaces": "guard", "share": 0.1},
                "mandatory": ["guard", "next"],
            },
            "applies_twice",
        ),
        (
            {
                "canary": {"policy": "next", "replaces": "guard", "share": 0.1},
                "mandatory": ["guard"],
                "choices": ["next"],
            },
            "applies_twice",
        ),
        ({"canary": {"policy": "nxt", "replaces": "formal", "share": 0.1}}, "unknown_policy"),
    ],
)
def test_a_canary_that_makes_no_sense_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(BindingError) as raised:
        mandated(default=spec(**fields))
    assert raised.value.code == code


def test_a_canary_of_another_range_would_refuse_requests_on_one_side() -> None:
    wide = PolicySpec.model_validate({"strength": {"max": 2}})
    bindings = {"default": spec(canary=canary().model_dump())}
    with pytest.raises(BindingError, match="same range"):
        check_bindings(bindings, POLICIES | {"next": wide})
    assert check_bindings(bindings, POLICIES | {"next": wide, "formal": wide})


def test_a_range_that_no_choice_has_is_refused() -> None:
    with pytest.raises(BindingError, match="none in common"):
        mandated(default=spec(policy="formal", strength={"min": 2, "max": 3}))


def test_a_canary_of_what_is_mandatory_makes_two_stacks() -> None:
    assert stacks_of(("guard", "formal"), canary()) == (("guard", "formal"), ("guard", "next"))
    assert stacks_of(("guard",), canary()) == (("guard",),)
    assert stacks_of(("guard",), None) == (("guard",),)


def test_a_share_is_drawn_once_for_each_unit_and_only_grows() -> None:
    units = [f"key k{i}" for i in range(4000)]
    small = {u for u in units if in_share("default", canary(share=0.1), u)}
    large = {u for u in units if in_share("default", canary(share=0.3), u)}
    assert small == {u for u in units if in_share("default", canary(share=0.1), u)}
    assert small < large
    for share, found in ((0.1, small), (0.3, large)):
        deviation = math.sqrt(share * (1 - share) * len(units))
        assert abs(len(found) - share * len(units)) < 4 * deviation
    everyone = canary(share=1.0)
    assert all(in_share("default", everyone, unit) for unit in units)
    # Another canary draws others.
    others = {u for u in units if in_share("default", canary(share=0.1, policy="strict"), u)}
    assert len(small & others) < len(small) / 2


def test_a_canary_that_is_declared_anew_is_another_one() -> None:
    assert canary_digest("default", canary()) == canary_digest("default", canary())
    others = [canary(share=0.2), canary(by="key"), canary(policy="strict")]
    digests = {canary_digest("default", one) for one in (canary(), *others)}
    assert len(digests) == 4
    assert canary_digest("acme", canary()) not in digests
