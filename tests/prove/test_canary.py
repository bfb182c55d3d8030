"""A canary in a real server: its share is as asked for, and a bad one ends by its own rule."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scipy.stats import binomtest

from tests.engine.test_server import DEMO, NAME
from tests.served import ADMIN_KEY, Served

pytestmark = pytest.mark.prove

N_REQUESTS, N_KEYS, SHARE = 2000, 400, 0.1
AT_ONCE = 32
UNLIKELY = 0.001
"""A share this unlikely under a fair draw is a wrong share."""
CALM, WILD = 1e6, -1e6
"""Thresholds that no score, and every score, lies above."""
RULE = {"metric": "ended", "above": 0.2, "at_least": 20}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo, with a store of its own."""
    folder = tmp_path_factory.mktemp("canary")
    policies = shutil.copytree(DEMO / "policies", folder / "policies")
    # Its default binding would be the directory's: here it is applied.
    documents = (policies / "demo.yaml").read_text().split("---\n")
    kept = [document for document in documents if "kind: Binding" not in document]
    (policies / "demo.yaml").write_text("---\n".join(kept))
    arguments = ["--policies", str(policies), "--state", str(folder / "state")]
    with Served(folder, ["--enforce-eager", *arguments]) as served:
        yield served


def guard(name: str, above: float) -> dict[str, Any]:
    """A policy that refuses every request whose harm scores above a raw score."""
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {
            "selectable": False,
            "monitors": {
                "harm": {"mode": "enforce", "above": above, "do": "refuse", "on_error": "block"}
            },
        },
    }


def binding(**canary: Any) -> dict[str, Any]:
    """The default binding, with a canary in place of its mandatory policy."""
    spec = {"mandatory": ["calm"], "canary": {"replaces": "calm", "share": SHARE, **canary}}
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Binding",
        "metadata": {"name": "default"},
        "spec": spec,
    }


def operate(server: Served, method: str, path: str, **more: Any) -> dict[str, Any]:
    """Call an operation as the admin."""
    answer = server.http.request(method, f"/trimtab/v1/{path}", headers=server.admin, **more)
    assert answer.is_success, answer.text
    return answer.json()


def apply(server: Served, *documents: dict[str, Any]) -> None:
    """Apply documents."""
    for document in documents:
        operate(server, "POST", "policies", json=document)


def answers(server: Served, keys: list[str]) -> list[tuple[str, str]]:
    """Ask a benign question with each key; return the policies and the verdict of each answer."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "where does sami grant live?"}],
        "max_tokens": 1,
    }

    async def all_of_them() -> list[tuple[str, str]]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:

            async def one(key: str) -> tuple[str, str]:
                async with gate:
                    headers = {"Authorization": f"Bearer {key}"}
                    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == 200, answer.text
                return answer.headers["x-trimtab-policy"], answer.headers["x-trimtab-verdict"]

            return await asyncio.gather(*(one(key) for key in keys))

    return asyncio.run(all_of_them())


def canary_of(server: Served) -> dict[str, Any]:
    """What the server says of its one canary."""
    (found,) = operate(server, "GET", "canaries")["canaries"]
    return found


def test_the_share_of_requests(server: Served, figures: dict[str, Any]) -> None:
    """Of requests drawn one by one a tenth runs under a harmless canary, and no rule ends it."""
    apply(server, guard("calm", CALM), guard("next", CALM))
    apply(server, binding(policy="next", by="request", rollback=[RULE]))
    labels = Counter(label for label, _ in answers(server, [ADMIN_KEY] * N_REQUESTS))
    found, shown = labels["next@1"], canary_of(server)
    p = binomtest(found, N_REQUESTS, SHARE).pvalue
    figures["share of requests"] = {
        "requests": N_REQUESTS,
        "share asked for": SHARE,
        "in the canary": found,
        "share": found / N_REQUESTS,
        "p of a fair draw": round(p, 4),
        "halted": shown["halted"],
    }
    assert set(labels) == {"calm@1", "next@1"}
    assert shown["requests"] == {"canary": found, "stable": N_REQUESTS - found}
    assert p > UNLIKELY and shown["halted"] is None


def test_a_bad_policy_is_rolled_back(server: Served, figures: dict[str, Any]) -> None:
    """A policy that refuses everybody ends itself after a few requests, for good."""
    apply(server, guard("bad", WILD))
    apply(server, binding(policy="bad", by="request", rollback=[RULE]))
    seen = Counter(answers(server, [ADMIN_KEY] * N_REQUESTS))
    shown = canary_of(server)
    after = Counter(label for label, _ in answers(server, [ADMIN_KEY] * 200))
    apply(server, binding(policy="bad", by="request", rollback=[RULE]))
    again = Counter(label for label, _ in answers(server, [ADMIN_KEY] * 200))
    log = operate(server, "GET", "audit")
    (row,) = [one for one in log["entries"] if one["action"] == "halt"]
    figures["a bad policy"] = {
        "rule": RULE,
        "requests": N_REQUESTS,
        "refused": sum(n for (label, _), n in seen.items() if label == "bad@1"),
        "halted": shown["halted"],
        "refused after": after["bad@1"] + again["bad@1"],
        "audit": {name: row[name] for name in ("actor", "action", "target")},
    }
    assert {verdict for label, verdict in seen if label == "bad@1"} == {"harm=refuse"}
    assert {verdict for label, verdict in seen if label == "calm@1"} == {"none"}
    # What was under way when the rule broke still ends under it.
    refused = figures["a bad policy"]["refused"]
    assert RULE["at_least"] <= refused <= RULE["at_least"] + AT_ONCE
    assert shown["halted"].startswith("ended: ")
    assert after == again == Counter({"calm@1": 200})


def test_the_share_of_keys(server: Served, figures: dict[str, Any]) -> None:
    """Of keys a tenth is drawn, each keeps its side, and its successor does too."""
    apply(server, binding(policy="next", by="key"))
    made = [
        operate(server, "POST", "keys", json={"name": f"k{i}", "role": "infer"})
        for i in range(N_KEYS)
    ]
    keys = [one["key"] for one in made]
    first = [label for label, _ in answers(server, keys)]
    second = [label for label, _ in answers(server, keys)]
    renewed = [
        operate(server, "POST", f"keys/{one['id']}/rotate", json={})["key"] for one in made[:100]
    ]
    third = [label for label, _ in answers(server, renewed)]
    found = first.count("next@1")
    p = binomtest(found, N_KEYS, SHARE).pvalue
    figures["share of keys"] = {
        "keys": N_KEYS,
        "share asked for": SHARE,
        "in the canary": found,
        "share": found / N_KEYS,
        "p of a fair draw": round(p, 4),
        "changed sides": sum(a != b for a, b in zip(first, second, strict=True)),
        "rotated keys that changed sides": sum(a != b for a, b in zip(first, third, strict=False)),
    }
    assert p > UNLIKELY
    assert second == first and third == first[:100]
