"""The schemas accept what the contract shows and refuse everything else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.digest import canonical_json
from service.schemas import Binding, Policy, json_schema
from service.steer_schema import Steer, content_of

ROOT = Path(__file__).parents[2]


def spec_of(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": "careful"},
        "spec": spec,
    }


def complaint(model: type[Any], content: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        model.model_validate(content)
    return str(raised.value)


CONTRACT = spec_of(
    mode="enforce",
    selectable=True,
    strength={"default": 1, "min": 0, "max": 2},
    refusal="I can't help with that.",
    steer=[
        {"direction": "formal", "coefficient": 1},
        {
            "direction": "refusal",
            "op": "add",
            "coefficient": 1,
            "at": "resid_post.3",
            "tokens": "last_prompt",
            "when": {"monitor": "harm", "fpr": 0.01},
        },
        {
            "feature": {"sae": "world-3", "index": 412},
            "op": "set",
            "value": 4.0,
            "tokens": "generation",
        },
    ],
    edits=["capital-moves"],
    monitors={
        "harm": {"mode": "enforce", "fpr": 0.01, "do": "refuse", "on_error": "block"},
        "deception": {"mode": "shadow", "fpr": 0.01, "do": "alert"},
    },
)


def test_the_policy_of_the_contract_fits_and_survives_its_canonical_form() -> None:
    policy = Policy.model_validate(CONTRACT)
    again = Policy.model_validate(json.loads(canonical_json(content_of(policy))))
    assert again == policy
    assert policy.spec.steer[1].at == ("resid_post.3",)
    assert policy.spec.monitors["deception"].on_error == "block"


def test_what_is_left_out_is_safe() -> None:
    spec = Policy.model_validate(spec_of()).spec
    assert (spec.mode, spec.selectable, spec.steer, spec.edits) == ("enforce", True, (), ())
    assert (spec.strength.min, spec.strength.default, spec.strength.max) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "entry",
    [
        {"direction": "a"},
        {"direction": "a", "coefficient": -2.5, "unit": "residual_norm", "op": "add"},
        {"direction": "a", "coefficient": {3: 1, 4: 0.5}},
        {"direction": "a", "coefficient": {"3": 1}},
        {"direction": "a", "op": "ablate", "at": ["resid_pre.0", "model.layers.3"]},
        {"direction": "a", "op": "clamp", "min": -1, "max": 1},
        {"direction": "a", "op": "clamp", "max": 0},
        {"direction": "a", "op": "set", "value": 0},
        {"direction": "a", "op": "set"},
        {"direction": "a", "op": "rotate", "degrees": 30, "toward": "b"},
        {"direction": "a", "tokens": {"from": 0}},
        {"direction": "a", "tokens": "prompt"},
    ],
)
def test_entries_that_fit_come_back_the_same(entry: dict[str, Any]) -> None:
    steer = Steer.model_validate(entry)
    assert Steer.model_validate(json.loads(json.dumps(content_of(steer)))) == steer


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "either 'direction' or 'feature'"),
        ({"direction": "a", "feature": {"sae": "s", "index": 1}}, "either 'direction' or"),
        ({"direction": "a", "op": "clamp"}, "needs 'min', 'max' or both"),
        ({"direction": "a", "op": "clamp", "min": 2, "max": 1}, "'min' 2 is above 'max' 1"),
        ({"direction": "a", "op": "add", "value": 1}, "'value' belongs to op: set, but op is add"),
        ({"direction": "a", "value": 1}, "'value' belongs to op: set, but no op is given"),
        ({"direction": "a", "op": "set", "value": 1, "max": 2}, "'max' belongs to op: clamp"),
        ({"feature": {"sae": "s", "index": 1}, "op": "set"}, "on a feature needs 'value'"),
        ({"direction": "a", "op": "rotate", "degrees": 3}, "needs 'degrees' and 'toward'"),
        ({"direction": "a", "op": "rotate", "degrees": 3, "toward": "a"}, "names the direction"),
        ({"direction": "a", "coefficient": float("nan")}, "finite"),
        ({"direction": "a", "coefficient": {3: float("inf")}}, "finite"),
        ({"direction": "a", "coefficient": {}}, "at least 1 item"),
        ({"direction": "a", "coefficient": {"3": 1, 3: 2}}, "the same layer is given twice"),
        ({"direction": "a", "coefficient": {-1: 2}}, "greater than or equal to 0"),
        ({"direction": "a", "coefficient": {"three": 2}}, "valid integer"),
        ({"direction": "a", "coefficient": "1"}, "valid number"),
        ({"direction": "a", "coefficient": True}, "valid number"),
        ({"direction": "a", "op": "clamp", "min": float("-inf"), "max": 1}, "finite"),
        ({"direction": "a", "at": []}, "at least 1 item"),
        ({"direction": "a", "at": ""}, "at least 1 character"),
        ({"direction": "a", "at": ["resid_post.1", "resid_post.1"]}, "twice"),
        ({"direction": "a", "tokens": "answer"}, "'generation'"),
        ({"direction": "a", "tokens": {"from": -1}}, "greater than or equal to 0"),
        ({"direction": "a", "tokens": {"form": 1}}, "Extra inputs"),
        ({"direction": "a", "unit": "sigma"}, "'natural'"),
        ({"direction": "A"}, "pattern"),
        ({"direction": "../a"}, "pattern"),
        ({"direction": "a\n"}, "pattern"),
        ({"direction": "a", "when": {"monitor": "m", "fpr": 0}}, "greater than 0"),
        ({"feature": {"sae": "s", "index": -1}}, "greater than or equal to 0"),
        ({"feature": {"sae": "s", "index": 1.5}}, "valid integer"),
    ],
)
def test_entries_that_do_not_fit_say_why(entry: dict[str, Any], message: str) -> None:
    assert message in complaint(Steer, entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": False}, "'off', 'shadow' or 'enforce'"),
        ({"strength": {"default": 3, "min": 0, "max": 2}}, "'default' 3 is outside"),
        ({"strength": {"min": 2, "max": 1}}, "'min' 2 is above"),
        ({"strength": 1}, "Strength"),
        ({"edits": ["a", "a"]}, "'a' is named twice"),
        ({"refusal": ""}, "at least 1 character"),
        ({"steer": {"direction": "a"}}, "valid tuple"),
        ({"monitors": {"harm": {"mode": "enforce", "fpr": 2, "do": "log"}}}, "less than 1"),
        ({"monitors": {"harm": {"mode": "enforce", "fpr": 0.1, "do": "scream"}}}, "'stop'"),
        ({"selectable": "yes"}, "valid boolean"),
    ],
)
def test_specs_that_do_not_fit_say_why(change: dict[str, Any], message: str) -> None:
    assert message in complaint(Policy, spec_of(**change))


@pytest.mark.parametrize("name", ["none", "", "-a", "A", "a" * 64, "a:b", "a/b", "é"])
def test_names_that_are_none(name: str) -> None:
    complaint(Policy, spec_of() | {"metadata": {"name": name}})


def binding(name: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "spec": spec,
    }


def test_a_binding_without_choices_is_not_one_without_any() -> None:
    assert Binding.model_validate(binding()).spec.choices is None
    assert Binding.model_validate(binding(choices=[])).spec.choices == ()
    assert Binding.model_validate(binding()).spec.policy == "none"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (binding("team-a"), "every binding has it but 'default'"),
        (binding(mandatory=["none"]), "'none' is reserved"),
        (binding(mandatory=["guard"], policy="guard"), "would apply twice"),
        (binding(mandatory=["guard"], choices=["guard"]), "would apply twice"),
        (binding(choices=["a", "a"]), "'a' is named twice"),
        (binding(mandatory="guard"), "valid tuple"),
    ],
)
def test_bindings_that_do_not_fit_say_why(content: dict[str, Any], message: str) -> None:
    assert message in complaint(Binding, content)


def test_models_cannot_be_changed() -> None:
    policy = Policy.model_validate(CONTRACT)
    with pytest.raises(ValidationError):
        policy.spec.mode = "off"


def test_the_published_schema_is_current() -> None:
    published = (ROOT / "docs" / "policy.schema.json").read_text()
    current = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    assert published == current, "run: trimtab policy schema > docs/policy.schema.json"


def test_the_published_schema_allows_both_spellings() -> None:
    steer = json_schema()["$defs"]["Steer"]["properties"]
    assert _types(steer["at"]) == {"string", "array", "null"}
    assert _types(steer["coefficient"]) == {"number", "object", "null"}


def _types(schema: dict[str, Any]) -> set[str]:
    options = schema.get("oneOf") or schema.get("anyOf")
    return {schema["type"]} if options is None else set().union(*map(_types, options))


def test_schemas_and_the_command_line_import_neither_torch_nor_vllm() -> None:
    code = (
        "import service.cli, service.directory, service.selection, sys\n"
        "print([m for m in ('torch', 'vllm', 'demo', 'steering', 'forward') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
