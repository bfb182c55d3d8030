"""The demo, served, with something to see on its dashboard: asked under policies that watch it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from demo.prompts import conversation, prompts
from tests.served import Served

NAME = "trimtab-demo"
POLICY = "observed"
LYING = "lie-pressured"
OBSERVED: Mapping[str, Any] = {
    "apiVersion": "trimtab/v1",
    "kind": "Policy",
    "metadata": {"name": POLICY, "description": "watches, and keeps what its alerts are about"},
    "spec": {
        "capture": True,
        "monitors": {
            "harm": {"mode": "enforce", "fpr": 0.01, "do": "alert", "on_error": "pass"},
            "harm-answer": {"mode": "shadow", "fpr": 0.01, "do": "alert"},
            "deception": {"mode": "enforce", "fpr": 0.01, "do": "alert", "on_error": "pass"},
        },
    },
}


def observe(server: Served) -> None:
    """Apply the policy of these scenes."""
    answer = server.http.post("/trimtab/v1/policies", json=OBSERVED, headers=server.admin)
    assert answer.status_code == 200, answer.text


def said(kind: str, count: int, seed: int = 11) -> Iterator[list[dict[str, str]]]:
    """Yield conversations of a kind of the demo's prompts."""
    for item in prompts(kind, n=count, seed=seed):
        yield conversation(item)


def ask(server: Served, messages: Sequence[Mapping[str, str]], policy: str) -> Any:
    """Ask under a policy and return the answer."""
    body = {
        "model": NAME,
        "messages": list(messages),
        "policy": policy,
        "temperature": 0,
        "max_tokens": 64,
        "trimtab": {"scores": True},
    }
    answer = server.http.post("/v1/chat/completions", json=body, headers=server.admin)
    assert answer.status_code == 200, answer.text
    return answer.json()


def busy(server: Served, count: int = 12) -> None:
    """Have many ask, about all kinds of things, under some policies."""
    kinds = ("harmless", "fact", "harmful", "honest", LYING, "framed")
    for policy in (POLICY, "watch", "guard"):
        for kind in kinds:
            for messages in said(kind, count if policy == POLICY else count // 3):
                ask(server, messages, policy)
