"""Policies to rows: what is left open, what is refused, and what the rows then do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from forward.allocation import Allocator
from forward.clauses import TokenClause, region_index
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.program import EMPTY, Program
from forward.site import Capacity
from forward.tables import CapacityError
from service.compile import (
    CompileError,
    artifacts_of,
    compile_policy,
    compile_stack,
    policy_digest,
    required,
)
from service.schemas import PolicySpec
from steering.card import to_artifact
from steering.defaults import Defaults
from steering.direction import Direction
from steering.library import Found
from tests.steering.toys import MODEL, effect, random_direction, residuals

D, N = 16, 4
SERVED = ModelFingerprint(MODEL, "llama", D, N)


def made(seed: int, name: str, **changes: Any) -> Direction:
    return random_direction(seed, D, N, name=name, **{"defaults": Defaults((2,)), **changes})


ONE, TWO = made(0, "one"), made(1, "two")
CAREFUL = made(
    2,
    "careful",
    defaults=Defaults((1, 3), "ablate", TokenClause("last_prompt"), 0.5, "absolute"),
)
BENIGN = made(3, "benign", defaults=Defaults((2,), "set"))
PRE = made(4, "pre", hook="resid_pre")
PARTIAL = random_direction(5, D, 2, name="partial")
FOREIGN = made(6, "foreign", model="b" * 64)
NARROW = random_direction(7, 8, N, name="narrow")
DEEP = random_direction(8, D, N + 2, name="deep", defaults=Defaults((5,)))
BARE = made(9, "bare", benign={}, target={}, defaults=Defaults((2,), "set"))
ALL = (ONE, TWO, CAREFUL, BENIGN, PRE, PARTIAL, FOREIGN, NARROW, DEEP, BARE)
LIBRARY = {d.name: Found(d, to_artifact(d).digest) for d in ALL}


@dataclass(frozen=True)
class Named:
    name: str
    spec: PolicySpec


def policy(*steer: Mapping[str, Any], name: str = "p", **spec: Any) -> Named:
    return Named(name, PolicySpec.model_validate({"steer": list(steer), **spec}))


def compiled(*steer: Mapping[str, Any], **spec: Any) -> Program:
    return compile_policy(policy(*steer, **spec), LIBRARY, SERVED)


def post(layer: int) -> HookPoint:
    return HookPoint("resid_post", layer)


def at(program: Program, position: int, prompt_length: int, point: HookPoint) -> torch.Tensor:
    """Return what the program adds to some residuals if they are of the token at a position."""
    content = program.contents[region_index(position, prompt_length, program.starts)]
    return effect(content.sites.get(point), residuals(D))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=1e-3)


def zero(found: torch.Tensor) -> bool:
    return not bool(found.any())


def offset(direction: Direction, layer: int, coefficient: float = 1.0) -> torch.Tensor:
    return (coefficient * direction.natural(layer)).expand(7, D)


def test_a_line_with_a_name_is_all_from_the_card():
    program = compiled({"direction": "one"})
    assert program.hook_points == (post(2),)
    for position in (0, 3, 4, 9):
        assert close(at(program, position, 5, post(2)), offset(ONE, 2))


def test_every_default_of_the_card_is_used_unless_written():
    program = compiled({"direction": "careful"})
    assert program.hook_points == (post(1), post(3))
    assert zero(at(program, 3, 5, post(1)))
    for layer in (1, 3):
        u = CAREFUL.vectors[layer]
        expected = -0.5 * (residuals(D) @ u).unsqueeze(-1) * u
        assert close(at(program, 4, 5, post(layer)), expected)
    written = compiled(
        {
            "direction": "careful",
            "op": "add",
            "at": "resid_post.0",
            "tokens": "generation",
            "coefficient": 3,
            "unit": "natural",
        }
    )
    assert written.hook_points == (post(0),)
    assert zero(at(written, 4, 5, post(0)))
    assert close(at(written, 5, 5, post(0)), offset(CAREFUL, 0, 3))


def test_the_cards_coefficient_belongs_to_the_cards_operation():
    program = compiled({"direction": "careful", "op": "add", "tokens": "all"})
    unit = CAREFUL.vectors[1].double().expand(7, D)
    assert close(at(program, 0, 5, post(1)), unit)  # coefficient 1, the card's unit: absolute


def test_set_without_a_value_moves_to_the_benign_mean():
    r = residuals(D)
    found = r + at(compiled({"direction": "benign"}), 0, 5, post(2))
    mean = torch.full((7,), BENIGN.benign[2])
    assert torch.allclose(found @ BENIGN.vectors[2], mean, atol=1e-3)


@pytest.mark.parametrize(
    ("tokens", "touched"),
    [
        ("all", range(12)),
        ("prompt", range(5)),
        ("last_prompt", [4]),
        ("generation", range(5, 12)),
        ({"from": 0}, range(5, 12)),
        ({"from": 3}, range(8, 12)),
    ],
)
def test_token_clauses(tokens: object, touched: list[int]):
    program = compiled({"direction": "one", "tokens": tokens})
    for position in range(12):
        assert zero(at(program, position, 5, post(2))) == (position not in touched)


def test_regions_are_cut_over_all_clauses():
    program = compiled(
        {"direction": "one", "tokens": "prompt"},
        {"direction": "two", "tokens": {"from": 2}},
        {"direction": "one", "tokens": {"from": 6}, "coefficient": -2},
        {"direction": "two", "tokens": "last_prompt"},
    )
    assert program.starts == (0, 2, 6)
    one, two = offset(ONE, 2), offset(TWO, 2)
    for position in range(15):
        expected = torch.zeros(7, D, dtype=torch.float64)
        expected += one if position < 5 else 0
        expected += two if position == 4 or position >= 7 else 0
        expected += -2 * one if position >= 11 else 0
        assert close(at(program, position, 5, post(2)), expected)


def test_coefficient_maps_give_layers_and_amounts():
    program = compiled({"direction": "one", "coefficient": {0: 1, 3: -2}})
    assert program.hook_points == (post(0), post(3))
    assert close(at(program, 0, 5, post(0)), offset(ONE, 0))
    assert close(at(program, 0, 5, post(3)), offset(ONE, 3, -2))
    both = compiled(
        {
            "direction": "one",
            "at": ["blocks.3.hook_resid_post", "model.layers.0"],
            "coefficient": {0: 1, 3: -2},
        }
    )
    assert both.digest == program.digest


def test_ablations_of_a_region_project_out_their_span():
    program = compiled(
        {"direction": "one", "op": "ablate"},
        {"direction": "two", "op": "ablate", "tokens": "generation"},
    )
    r = residuals(D)
    prompt, generated = (r + at(program, position, 5, post(2)) for position in (0, 5))
    assert float((prompt @ ONE.vectors[2]).abs().max()) < 1e-3
    assert float((prompt @ TWO.vectors[2]).abs().max()) > 1
    for direction in (ONE, TWO):
        assert float((generated @ direction.vectors[2]).abs().max()) < 1e-3


def test_other_operations_reach_the_rows():
    u, v = ONE.vectors[2], TWO.vectors[2]
    v = (v - (v @ u) * u) / (v - (v @ u) * u).norm()
    r = residuals(D)
    k = ONE.scale[2]
    clamped = r + at(
        compiled({"direction": "one", "op": "clamp", "min": -0.1, "max": 0.2}), 0, 5, post(2)
    )
    assert torch.allclose(clamped @ u, (r @ u).clamp(-0.1 * k, 0.2 * k), atol=1e-3)
    floored = r + at(compiled({"direction": "one", "op": "clamp", "min": 0.5}), 0, 5, post(2))
    assert torch.allclose(floored @ u, (r @ u).clamp_min(0.5 * k), atol=1e-3)
    fixed = r + at(
        compiled({"direction": "one", "op": "set", "value": 0.5, "unit": "residual_norm"}),
        0,
        5,
        post(2),
    )
    assert torch.allclose(fixed @ u, 0.5 * r.norm(dim=-1), rtol=1e-4, atol=1e-3)
    turned = r + at(
        compiled({"direction": "one", "op": "rotate", "degrees": 90, "toward": "two"}),
        0,
        5,
        post(2),
    )
    assert torch.allclose(turned @ v, r @ u, atol=1e-3)
    assert torch.allclose(turned @ u, -(r @ v), atol=1e-3)


def test_a_stack_has_each_policy_at_its_default_strength():
    strong = {"strength": {"default": 2, "min": 0, "max": 3}}
    weak = {"strength": {"default": 0.25, "min": 0, "max": 1}}
    program = compile_stack(
        [
            policy({"direction": "one"}, name="a", **strong),
            policy({"direction": "two", "tokens": "generation"}, name="b", **weak),
        ],
        LIBRARY,
        SERVED,
    )
    assert close(at(program, 0, 5, post(2)), offset(ONE, 2, 2))
    assert close(at(program, 5, 5, post(2)), offset(ONE, 2, 2) + offset(TWO, 2, 0.25))


def test_a_stack_that_ablates_one_direction_twice_removes_it_once():
    twice = [policy({"direction": "one", "op": "ablate"}, name=name) for name in "ab"]
    r = residuals(D)
    left = r + at(compile_stack(twice, LIBRARY, SERVED), 0, 5, post(2))
    assert float((left @ ONE.vectors[2]).abs().max()) < 1e-3


def test_a_client_policy_is_compiled_at_strength_one():
    program = compiled({"direction": "one"}, strength={"default": 3, "min": 0, "max": 4})
    assert close(at(program, 0, 5, post(2)), offset(ONE, 2))


def test_modes():
    assert compiled({"direction": "one"}, mode="shadow") is EMPTY
    assert compiled({"direction": "nobody"}, mode="off") is EMPTY
    assert compile_stack([], LIBRARY, SERVED) is EMPTY
    with pytest.raises(CompileError):
        compiled({"direction": "nobody"}, mode="shadow")
    shadow = policy({"direction": "one"}, mode="shadow")
    enforced = compile_policy(policy({"direction": "one"}), LIBRARY, SERVED)
    assert compile_policy(shadow, LIBRARY, SERVED, every_mode=True).digest == enforced.digest


def test_nothing_to_do_is_row_zero():
    program = compiled({"direction": "one", "coefficient": 0})
    assert [content.digest for content in program.contents] == ["", "", ""]
    assert program.hook_points == ()


def test_equal_policies_have_equal_programs():
    first = compiled({"direction": "one"}, {"direction": "two", "op": "ablate"})
    second = compiled(
        {"direction": "two", "op": "ablate", "coefficient": 1.0},
        {"direction": "one", "at": "resid_post.2", "tokens": "all", "unit": "natural"},
    )
    assert first.digest == second.digest
    assert first.digest != compiled({"direction": "one"}).digest


REFUSALS: list[tuple[Mapping[str, Any], str, str]] = [
    ({"direction": "nobody"}, "direction", "there is no direction 'nobody' (there are: bare, "),
    ({"direction": "foreign"}, "direction", "made on model bbbbbbbbbbbb, but the model served"),
    ({"direction": "narrow"}, "direction", "width 8, the model's residual has 16"),
    ({"direction": "deep"}, "direction", "layer 5 is outside the model: it has 4 layers"),
    ({"direction": "partial", "at": "resid_post.3"}, "at[0]", "no vector for layer 3; it has [0,"),
    ({"direction": "one", "at": "resid_post.4"}, "at[0]", "outside the model: it has 4 layers"),
    ({"direction": "one", "at": ["resid_post.1", "resid_pre.1"]}, "at[1]", "taken from resid_post"),
    ({"direction": "pre", "at": "resid_post.1"}, "at[0]", "taken from resid_pre"),
    ({"direction": "one", "at": "mlp.1"}, "at[0]", "is where edits act"),
    ({"direction": "one", "at": "layer 3"}, "at[0]", "not a hook point"),
    ({"direction": "one", "at": ["resid_post.1", "model.layers.1"]}, "at", "same hook point twice"),
    ({"direction": "one", "coefficient": {"7": 1.0}}, "coefficient", "layer 7 is outside"),
    ({"direction": "partial", "coefficient": {"3": 1.0}}, "coefficient", "no vector for layer 3"),
    (
        {"direction": "one", "at": "resid_post.1", "coefficient": {"2": 1.0}},
        "coefficient",
        "given for layers [2] but 'at' names [1]",
    ),
    ({"feature": {"sae": "s", "index": 1}}, "feature", "there is no sae 's' (there are: none)"),
    ({"direction": "one", "coefficient": 1e6}, "coefficient", "adds a vector of norm"),
    ({"direction": "one", "unit": "absolute", "coefficient": -2e6}, "coefficient", "norm 2e+06"),
    ({"direction": "one", "op": "ablate", "coefficient": 5e3}, "coefficient", "too large"),
    ({"direction": "one", "unit": "residual_norm", "coefficient": 5e3}, "coefficient", "too large"),
    ({"direction": "one", "op": "clamp", "max": 1e300}, "max", "too large"),
    ({"direction": "one", "op": "set", "value": -1e7}, "value", "too large"),
    (
        {"direction": "one", "op": "rotate", "degrees": 9.0, "toward": "nobody"},
        "toward",
        "there is no direction 'nobody'",
    ),
    (
        {"direction": "one", "op": "rotate", "degrees": 9.0, "toward": "pre"},
        "toward",
        "is of resid_pre",
    ),
    (
        {
            "direction": "one",
            "op": "rotate",
            "degrees": 9.0,
            "toward": "partial",
            "at": "resid_post.3",
        },
        "toward",
        "no vector for layer 3",
    ),
    ({"direction": "bare"}, "value", "no benign mean at layer 2"),
]


@pytest.mark.parametrize(("entry", "field", "message"), REFUSALS, ids=str)
def test_refusals_name_the_field(entry: Mapping[str, Any], field: str, message: str):
    spec = policy({"direction": "one"}, entry, name="wrong")
    with pytest.raises(CompileError) as caught:
        compile_policy(spec, LIBRARY, SERVED)
    assert caught.value.path == f"spec.steer[1].{field}"
    assert message in caught.value.reason
    assert str(caught.value).startswith(f"policy 'wrong', spec.steer[1].{field}: ")


def test_the_largest_strength_counts():
    entry = {"direction": "one", "unit": "absolute", "coefficient": 1e5}
    compiled(entry)
    with pytest.raises(CompileError, match="norm 2e"):
        compiled(entry, strength={"default": 1, "min": 0, "max": 20})


def test_monitors_must_be_there_unless_they_are_off():
    monitor = {"mode": "shadow", "fpr": 0.01, "do": "alert"}
    with pytest.raises(CompileError, match=r"spec\.monitors\.harm: there is no monitor 'harm'"):
        compiled({"direction": "one"}, monitors={"harm": monitor})
    off = compiled({"direction": "one"}, monitors={"harm": {**monitor, "mode": "off"}})
    assert off.digest == compiled({"direction": "one"}).digest


def test_too_many_starts():
    starts = [{"direction": "one", "tokens": {"from": n}} for n in (1, 2, 3)]
    assert len(compiled(*starts).starts) == 4
    with pytest.raises(CompileError, match=r"spec\.steer\[3\]\.tokens: 4 different 'from' clauses"):
        compiled(*starts, {"direction": "two", "tokens": {"from": 9}})
    halves = [policy(*starts[:2], name="a"), policy(starts[2], {**starts[0]}, name="b")]
    assert len(compile_stack(halves, LIBRARY, SERVED).starts) == 4
    more = policy({"direction": "one", "tokens": {"from": 8}}, name="c")
    with pytest.raises(CompileError, match="policy 'c'"):
        compile_stack([*halves, more], LIBRARY, SERVED)


def test_required_capacity_is_enough_and_not_more():
    programs = [
        compiled({"direction": "one"}),
        compiled({"direction": "one", "op": "ablate", "at": ["resid_post.1", "resid_post.2"]}),
        compiled({"direction": "one", "op": "ablate"}, {"direction": "two"}),
        compiled({"direction": "one", "op": "rotate", "degrees": 5.0, "toward": "two"}),
        compiled({"direction": "two", "unit": "residual_norm", "tokens": "generation"}),
        compiled({"direction": "one"}),
        EMPTY,
    ]
    need = required(programs)
    assert list(need) == [post(1), post(2)]
    assert need[post(1)].rows == need[post(2)].rows == 1 + 5
    assert (need[post(1)].reads, need[post(1)].writes) == (1, 1)
    assert (need[post(2)].reads, need[post(2)].writes) == (2, 1 + 2 + 1)
    allocator = Allocator(D, need)
    for program in programs:
        allocator.place(program)
    assert allocator.used == {
        "rows": 5,
        "gates": 0,
        "reads at resid_post.1": 1,
        "writes at resid_post.1": 1,
        "reads at resid_post.2": 2,
        "writes at resid_post.2": 4,
    }
    assert required([EMPTY]) == {}


def test_a_stack_keeps_each_policy_on_its_own_artifacts():
    other = Found(TWO.renamed("one"), "f" * 64)
    policies = [policy({"direction": "one"}, name=name) for name in "ab"]
    program = compile_stack(policies, [LIBRARY, {"one": other}], SERVED)
    assert close(at(program, 0, 5, post(2)), offset(ONE, 2) + offset(TWO, 2))


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (Capacity(2, 2, 2), "no rows left: all 1 are in use; start with a larger --rows"),
        (Capacity(4, 1, 2), "no reads at resid_post.2 left: all 1 are in use"),
        (Capacity(4, 2, 1), "no writes at resid_post.2 left: all 1 .* a larger --writes"),
        (None, "no site at resid_post.2: .* start with --sites resid_post.2"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_raise(capacity: Capacity | None, message: str):
    allocator = Allocator(
        D, {post(1): Capacity(3, 2, 2)} if capacity is None else {post(2): capacity}
    )
    first = compiled({"direction": "one", "op": "ablate", "at": "resid_post.1"})
    second = compiled(
        {"direction": "two", "op": "ablate"}, {"direction": "one", "tokens": "prompt"}
    )
    if capacity is not None:
        first = compiled({"direction": "one", "op": "ablate"})
    allocator.place(first)
    before = allocator.used
    with pytest.raises(CapacityError, match=message):
        allocator.place(second)
    assert allocator.used == before


def test_policy_digest_is_content():
    spec = policy({"direction": "one"}, {"direction": "two", "op": "ablate"}).spec
    artifacts = artifacts_of(spec, LIBRARY)
    assert artifacts == {name: LIBRARY[name].digest for name in ("one", "two")}
    digest = policy_digest(spec, artifacts)
    assert digest == policy_digest(spec, dict(reversed(artifacts.items())))
    assert digest != policy_digest(spec, {**artifacts, "one": "0" * 64})
    assert digest != policy_digest(policy({"direction": "one"}).spec, artifacts)
    rotated = policy({"direction": "one", "op": "rotate", "degrees": 5.0, "toward": "two"}).spec
    assert set(artifacts_of(rotated, LIBRARY)) == {"one", "two"}
    assert artifacts_of(policy({"direction": "nobody"}).spec, LIBRARY) == {}


def test_numbers_reach_the_rows_unchanged():
    program = compiled({"direction": "one", "coefficient": math.pi})
    content = program.contents[0].sites[post(2)]
    assert content.offset is not None
    assert torch.equal(content.offset, (math.pi * ONE.scale[2] * ONE.vectors[2].double()).float())
