"""The official client finds no difference between plain vLLM and Trimtab under no policy."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import scribe
from tests.conforming import Subject, answers, client_of
from tests.openai_suite import BY_CONTRACT, Fields, asks, unequal
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
