"""Monitor documents accept what the contract shows and refuse everything else, saying where."""

import json
from typing import Any

import pytest

from service.documents import DocumentsError, parse_content, parse_documents
from service.monitor_schema import MonitorSpec
from service.schemas import Monitor, MonitorUse, PolicySpec, json_schema
from service.steer_schema import Steer, When, content_of


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Monitor",
        "metadata": {"name": "harm"},
        "spec": spec,
    }


def complaints(**spec: Any) -> str:
    with pytest.raises(DocumentsError) as caught:
        parse_documents(json.dumps(document(**spec)), "m.yaml")
    return str(caught.value)


def test_the_monitor_of_the_contract_fits() -> None:
    text = """
apiVersion: trimtab/v1
kind: Monitor
metadata: {name: harm}
spec: {read: {probe: harm-3}, tokens: prompt, pool: max}
"""
    [found] = parse_documents(text)
    assert found.key == ("Monitor", "harm")
    assert isinstance(found.model, Monitor)
    assert parse_content(found.content).digest == found.digest


@pytest.mark.parametrize(
    "spec",
    [
        {"read": {"direction": "lie"}},
        {"read": {"direction": "lie", "layer": 3}, "tokens": {"from": 4}, "pool": "last"},
        {"read": {"feature": {"sae": "w", "index": 0}}, "pool": {"ema": 0.5}},
        {"read": {"feature": {"sae": "w", "indices": [1, 2], "weights": [1, -0.5]}}},
        {"read": {"probe": "a"}, "pool": {"rolling": 10}},
        {"read": {"probe": "a"}, "pool": {"softmax": 1.0}},
    ],
)
def test_reads_and_pools(spec: dict[str, Any]) -> None:
    made = MonitorSpec.model_validate(spec)
    assert MonitorSpec.model_validate(json.loads(json.dumps(content_of(made)))) == made


def test_what_is_left_out() -> None:
    made = MonitorSpec.model_validate({"read": {"probe": "a"}})
    assert (made.tokens, made.pool) == ("all", "max")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"read": {}}, "spec.read: a monitor reads one of 'probe', 'direction' and 'feature'"),
        ({"read": {"probe": "a", "direction": "b"}}, "spec.read: a monitor reads one of"),
        ({"read": {"prob": "a"}}, "spec.read.prob: unknown field 'prob'; did you mean 'probe'?"),
        ({"read": {"probe": "a", "layer": 3}}, "'layer' belongs to a direction"),
        ({"read": {"feature": {"sae": "w"}}}, "give either 'index' or 'indices'"),
        ({"read": {"feature": {"sae": "w", "index": 1, "indices": [2]}}}, "give either 'index'"),
        ({"read": {"feature": {"sae": "w", "indices": [1, 1]}}}, "names the same latent twice"),
        (
            {"read": {"feature": {"sae": "w", "indices": [1, 2], "weights": [1]}}},
            "'weights' has 1 numbers for 2 latents",
        ),
        ({"read": {"feature": {"sae": "w", "index": 1, "weights": [0]}}}, "weight of 0 reads noth"),
        ({"read": {"probe": "a"}, "pool": "maks"}, "spec.pool: 'maks' is not one of"),
        ({"read": {"probe": "a"}, "pool": {"ema": 0}}, "greater than 0"),
        ({"read": {"probe": "a"}, "pool": {"rolling": 0}}, "greater than or equal to 1"),
        ({"read": {"probe": "a"}, "pool": {"emma": 1}}, "did you mean 'ema'?"),
        (
            {"read": {"probe": "a"}, "pool": {"ema": 0.5, "rolling": 2}},
            "is one of 'ema', 'rolling'",
        ),
        ({"read": {"probe": "a"}, "tokens": "answer"}, "'generation'"),
        ({"read": {"probe": "/etc/passwd"}}, "is not a name"),
        ({"read": {"probe": "a"}, "poll": "max"}, "did you mean 'pool'?"),
    ],
)
def test_monitors_that_do_not_fit_say_why(spec: dict[str, Any], message: str) -> None:
    assert message in complaints(**spec)


def test_a_gate_has_one_threshold() -> None:
    for given in ({}, {"fpr": 0.1, "above": 1.0}, {"above": 1.0, "below": 2.0}):
        with pytest.raises(ValueError, match="one of 'fpr', 'above' and 'below'"):
            When.model_validate({"monitor": "m", **given})
    assert When.model_validate({"monitor": "m", "below": -2}).scope == "request"


def test_a_use_has_one_threshold() -> None:
    for given in ({}, {"fpr": 0.1, "above": 1.0}):
        with pytest.raises(ValueError, match="either 'fpr' or 'above'"):
            MonitorUse.model_validate({"mode": "shadow", "do": "log", **given})


def test_gates_and_monitors_of_a_policy_go_together() -> None:
    gated = {"direction": "a", "when": {"monitor": "m", "above": 1}}
    use = {"mode": "enforce", "above": 1, "do": "steer"}
    PolicySpec.model_validate({"steer": [gated], "monitors": {"m": use}})
    with pytest.raises(ValueError, match=r"steer\[0\].when names monitor 'm', which is not under"):
        PolicySpec.model_validate({"steer": [gated], "monitors": {"n": {**use, "do": "log"}}})
    with pytest.raises(ValueError, match=r"monitors.m is to steer, but no entry of 'steer' waits"):
        PolicySpec.model_validate({"monitors": {"m": use}})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"op": "ablate"}, "use add or set; to silence it write op: set, value: 0"),
        ({"op": "clamp", "min": 0}, "is not one for a feature"),
        ({"op": "set"}, "needs 'value'"),
        ({"op": "set", "value": 1, "unit": "natural"}, "has no unit natural"),
        ({"coefficient": {"2": 1.0}}, "a feature lives at one layer"),
    ],
)
def test_what_a_feature_cannot_do(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.split("'")[0]) as caught:
        Steer.model_validate({"feature": {"sae": "s", "index": 1}, **entry})
    assert message in str(caught.value)


def test_the_schema_for_editors_has_monitors() -> None:
    schema = json_schema()
    assert set(schema["discriminator"]["mapping"]) == {"Policy", "Monitor", "EditSet", "Binding"}
