"""Edit sets to rows: found by what they say, refused by name, the same at every token."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.lower import together
from forward.hookpoints import HookPoint
from forward.program import EMPTY
from service.compile import CompileError, artifacts_of, compile_policy, compile_stack, required
from service.entry import EditCompileError
from service.library import Library
from service.schemas import PolicySpec
from service.writes import reaching_writes_digest
from tests.service.edited import SERVED, compiled, delta_of, library, solved, spec_of
from tests.service.test_compile import LIBRARY, Named

MLP = HookPoint("mlp", 1)
MOVED = library(moved=spec_of(), other=spec_of("Kleito"), more=spec_of(layers=[2]))


def policy(*edits: str, name: str = "p", **spec: Any) -> Named:
    return Named(name, PolicySpec.model_validate({"edits": list(edits), **spec}))


def compile_(made: Named, known: Library = MOVED, **options: Any) -> Any:
    return compile_policy(made, known, SERVED, **options)


def test_an_edit_holds_in_every_region_and_nothing_else_is_written():
    steered = [{"direction": "one", "tokens": {"from": 3}}]
    program = compile_(policy("moved", steer=steered), Library(LIBRARY, edits=MOVED.edits))
    assert len(program.contents) == 4
    [column] = {
        column.digest: column for content in program.contents
        for column, _ in content.sites[MLP].columns
    }.values()  # fmt: skip
    factors = delta_of(1, (1,)).layers[1]
    assert torch.equal(column.write, factors.u[:, 0])
    assert column.read is not None and torch.equal(column.read.vector, factors.v[0])
    assert (column.linear, column.constant, column.gate) == (1.0, 0.0, None)
    assert [sorted(map(str, c.sites)) for c in program.contents] == [
        ["mlp.1"], ["mlp.1"], ["mlp.1"], ["mlp.1", "resid_post.2"]
    ]  # fmt: skip


def test_modes_decide_whether_it_acts():
    assert compile_(policy("moved", mode="shadow")) is EMPTY
    assert compile_(policy("moved", mode="off")) is EMPTY
    assert compile_(policy("moved", mode="shadow"), every_mode=True).hook_points == (MLP,)


def test_capacity_is_a_read_and_a_write_a_part():
    programs = [compile_(policy("moved", "more")), compile_(policy("other"))]
    sizes = required(programs)
    assert {str(p): (c.rows, c.reads, c.writes) for p, c in sizes.items()} == {
        "mlp.1": (3, 2, 2),
        "mlp.2": (3, 1, 1),
    }


def test_sets_of_one_policy_act_together_and_contradictions_do_not():
    both = compile_(policy("moved", "more"))
    assert both.contents[0].sites.keys() == {MLP, HookPoint("mlp", 2)}
    with pytest.raises(CompileError, match=r"spec\.edits: of the sets moved, other, two facts con"):
        compile_(policy("moved", "other"))
    stack = [policy("moved", name="a"), policy("other", name="b")]
    with pytest.raises(CompileError, match="contradict each other"):
        compile_stack(stack, MOVED, SERVED)
    doubled = compile_stack([policy("moved", name="a"), policy("moved", name="b")], MOVED, SERVED)
    assert doubled.digest == compile_(policy("moved")).digest


def test_a_set_that_is_not_there_is_refused_by_name():
    with pytest.raises(CompileError, match=r"spec\.edits\[1\]: there is no edit set 'move'.*moved"):
        compile_(policy("moved", "move"))


def test_a_merged_set_is_nobodys_to_choose():
    known = library(moved=spec_of(serve="merge"))
    assert known.edits["moved"].sites == ()
    with pytest.raises(CompileError, match="merged into the weights"):
        compile_(policy("moved"), known)


def test_a_match_gates_each_part_on_its_own_key():
    known = library(moved=spec_of(match=0.7))
    [(column, _)] = compile_(policy("moved"), known).contents[0].sites[MLP].columns
    key = delta_of(1, (1,)).layers[1].keys
    assert key is not None and column.gate is not None
    torch.testing.assert_close(column.gate.read.vector, key[0] / key[0].norm())
    assert (column.gate.threshold, column.gate.point, column.gate.listens) == (0.7, MLP, None)
    keyless = Library(solved=[solved("moved", spec_of(), delta=delta_of(1, (1,), keyed=False))])
    with pytest.raises(EditCompileError, match=r"spec\.match: .* has no keys to match"):
        compiled("moved", spec_of(match=0.7), keyless)


def test_what_solves_a_set_is_found_by_its_facts_method_and_layers():
    kept = solved("made-under-another-name", spec_of())
    assert compiled("moved", spec_of(), Library(solved=[kept])).edit is kept.content
    for different in (
        spec_of("Kleito"), spec_of(method="rome"), spec_of(layers=[2]),
        spec_of(keep=["{} is ruled by"]),
    ):  # fmt: skip
        with pytest.raises(EditCompileError, match=r"spec\.facts: no artifact solves just these"):
            compiled("moved", different, Library(solved=[kept]))


def test_layers_left_out_are_the_models_usual_one():
    kept = solved("moved", spec_of(layers=[1]))
    spec = spec_of().model_copy(update={"layers": ()})
    assert compiled("moved", spec, Library(solved=[kept])).sites == (MLP,)


def test_another_model_or_a_failed_gate_solves_nothing():
    foreign = solved("moved", spec_of(), model="b" * 64)
    with pytest.raises(EditCompileError, match="solved on model bbbbbbbbbbbb only"):
        compiled("moved", spec_of(), Library(solved=[foreign]))
    failed = solved("moved", spec_of(), gates={"failed": ["growth"]})
    with pytest.raises(EditCompileError, match="refused by its gates: growth"):
        compiled("moved", spec_of(), Library(solved=[failed]))
    unmeasured = solved("moved", spec_of(), gates={})
    with pytest.raises(EditCompileError, match="none of its gates was measured"):
        compiled("moved", spec_of(), Library(solved=[unmeasured]))
    good = solved("moved", spec_of(), seed=9)
    assert compiled("moved", spec_of(), Library(solved=[failed, good])).edit is good.content


def test_identity_is_what_it_says_and_what_solves_it():
    one = compiled("moved", spec_of(), Library(solved=[solved("x", spec_of(), seed=1)]))
    other = compiled("moved", spec_of(), Library(solved=[solved("x", spec_of(), seed=2)]))
    assert one.digest != other.digest and one.artifacts.keys() == {"edit/moved"}
    spec = policy("moved").spec
    pins = artifacts_of(spec, Library(edits={"moved": one}))
    assert pins == {"editset/moved": one.digest}
    assert artifacts_of(spec, Library(edits={"moved": other})) != pins


def test_edits_reach_the_monitors_behind_them_and_no_others():
    program = compile_(policy("moved"))
    assert reaching_writes_digest(program, HookPoint("resid_pre", 1)) == ""
    after = reaching_writes_digest(program, HookPoint("resid_post", 1))
    assert after and after != reaching_writes_digest(compile_(policy("other")), HookPoint("mlp", 2))
    cut = compile_(policy("moved", "more"), before=HookPoint("resid_post", 1))
    assert cut.digest == program.digest


def test_parts_that_two_sets_share_act_once():
    one = MOVED.edits["moved"].contents
    assert len(together([one, one])[MLP].columns) == 1
    changed = replace(MOVED.edits["moved"], contents=together([one, MOVED.edits["other"].contents]))
    assert len(changed.contents[MLP].columns) == 2
