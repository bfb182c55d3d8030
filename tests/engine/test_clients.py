"""The official client finds no difference between plain vLLM and Trimtab under no policy."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import scribe
from tests.conforming import Subject, answers, client_of
from tests.openai_answers import unequal
from tests.openai_suite import BY_CONTRACT, Fields, asks
from tests.served import Served

MESSAGES = [{"role": "user", "content": "where does sami grant live?"}]
ASKED = asks(scribe.NAME, MESSAGES, scribe.SPACES)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model that can write JSON, under a default policy that changes what it writes."""
    checkpoint = scribe.save_scribe(tmp_path_factory.mktemp("scribe"))
    policies = scribe.save_policies(checkpoint, tmp_path_factory.mktemp("policies"))
    return Subject(checkpoint, policies, (*scribe.OPTIONS, "--enforce-eager"))


@pytest.fixture(scope="module")
def plain(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fields]:
    """What plain vLLM answers; it has ended before Trimtab starts."""
    with subject.plain(tmp_path_factory.mktemp("plain")) as server:
        return answers(server, ASKED)


@pytest.fixture(scope="module")
def server(
    subject: Subject, plain: dict[str, Fields], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Trimtab on the same model with the same flags."""
    with subject.trimtab(tmp_path_factory.mktemp("trimtab")) as running:
        yield running


@pytest.fixture(scope="module")
def ours(server: Served) -> dict[str, Fields]:
    """What Trimtab answers."""
    return answers(server, ASKED)


def test_every_answer_is_plain_vllms(plain: dict[str, Fields], ours: dict[str, Fields]) -> None:
    assert len(plain) == len(ASKED) > 100
    assert unequal(plain, ours) == {}


def test_the_suite_reaches_what_it_is_about(plain: dict[str, Fields]) -> None:
    """Answers end in every way, tools are called, errors are of every class that vLLM knows."""
    named = plain["tools: named"]["answer"]["choices"][0]["message"]["tool_calls"][0]["function"]
    streamed = plain["tools: named, streamed"]["stream"]["choices"][0]["delta"]["tool_calls"][0]
    for call in (named, streamed["function"]):
        assert call["name"] == "get_weather"
        assert set(json.loads(call["arguments"])) == {"city", "days"}
    assert {item["type"] for item in plain["responses: tool required"]["answer"]["output"]} == {
        "function_call"
    }
    ends = {choice["finish_reason"] for found in plain.values() for choice in choices(found)}
    assert ends >= {"stop", "length", "tool_calls"}
    errors = {found["error"] for found in plain.values() if "error" in found}
    assert errors == {"BadRequestError", "NotFoundError", "AuthenticationError"}
    assert set(BY_CONTRACT) < set(plain)


def test_a_difference_would_be_seen(plain: dict[str, Fields], server: Served) -> None:
    """Without `none`, the default policy answers, and otherwise."""
    greedy = next(ask for ask in ASKED if ask.name == "chat: greedy")
    with client_of(server) as client:
        raw = client.chat.completions.with_raw_response.create(**greedy.fields)
    assert raw.headers["x-trimtab-policy"] == "tilt@1"
    said = raw.parse().choices[0].message.content
    assert said != plain["chat: greedy"]["answer"]["choices"][0]["message"]["content"]


def choices(found: Fields) -> list[Any]:
    """Return the choices of an answer of chat or completions."""
    answer = found.get("answer") or found.get("stream")
    return answer.get("choices", []) if isinstance(answer, dict) else []


def test_what_only_trimtab_refuses_has_the_clients_own_class(server: Served) -> None:
    """A policy that is not there or not for this client, and a key at its limit or at its end."""
    asked: dict[str, Any] = {"model": scribe.NAME, "messages": MESSAGES, "max_tokens": 1}
    limits = {"requests_per_minute": 1}
    key = server.http.post(
        "/trimtab/v1/keys",
        json={"name": "busy", "role": "infer", "limits": limits},
        headers=server.admin,
    ).json()
    with client_of(server) as client:
        with pytest.raises(openai.NotFoundError, match="policy"):
            client.chat.completions.create(**asked | {"model": f"{scribe.NAME}:nothing"})
        with pytest.raises(openai.BadRequestError, match="policy"):
            client.chat.completions.create(**asked, extra_body={"policy": 3})
        busy = client.with_options(api_key=key["key"])
        assert busy.chat.completions.create(**asked).choices
        with pytest.raises(openai.RateLimitError, match="1 requests a minute") as limited:
            busy.chat.completions.create(**asked)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
        server.http.delete(f"/trimtab/v1/keys/{key['id']}", headers=server.admin)
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            busy.chat.completions.create(**asked)
        assert client.chat.completions.create(**asked).choices, "another key is not held back"
