"""The served demo, compiled, at full size: the first minute, activation, bad input."""

import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from demo.prompts import FIRST_MINUTE
from tests.engine.test_server import DEMO, NAME, ask, policy, post, subject_of
from tests.served import Served
from tests.service.api.bad_inputs import cases

pytestmark = pytest.mark.prove

N_STREAMS, N_POSTS = 32, 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo as `make serve` starts it."""
    with Served(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    """A stock client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def test_first_minute(server: Served, client: openai.OpenAI, figures: dict[str, Any]) -> None:
    """What a stranger types gets naturally spaced words; the answers are in the evidence."""
    answers = {text: ask(client, text) for text in FIRST_MINUTE}
    figures["boot seconds"] = round(server.boot_seconds, 1)
    figures["first minute"] = answers
    for text, answer in answers.items():
        assert answer and answer == answer.strip() and "  " not in answer, text
        assert " ." not in answer and " ," not in answer and "<" not in answer, text


def test_activation(server: Served, figures: dict[str, Any]) -> None:
    """32 streams run while their policy changes; none fails, none mixes revisions."""
    post(server, policy("live", 0.0))
    body: dict[str, Any] = {
        "model": f"{NAME}:live",
        "messages": [{"role": "user", "content": "where does sami grant live?"}],
        "max_tokens": 200,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    seen: list[tuple[str, str]] = []

    def stream() -> None:
        with server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
        choices = [json.loads(line)["choices"] for line in lines]
        text = "".join(c[0]["delta"].get("content") or "" for c in choices if c)
        seen.append((answer.headers["x-trimtab-policy"], text))

    threads = [threading.Thread(target=stream) for _ in range(N_STREAMS)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    took: list[float] = []
    for turn in range(1, N_POSTS + 1):
        started = time.perf_counter()
        post(server, policy("live", 1.0 if turn % 2 else 0.0))
        took.append(time.perf_counter() - started)
        answer = server.http.post(
            "/v1/chat/completions", json={**body, "stream": False, "max_tokens": 1}
        )
        assert answer.headers["x-trimtab-policy"] == f"live@{turn + 1}"
    for thread in threads:
        thread.join()
    texts: dict[int, set[str]] = {}
    for label, text in seen:
        texts.setdefault(int(label.split("@")[1]) % 2, set()).add(text)
    median = 1000 * statistics.median(took)
    figures["activation"] = {
        "streams": len(seen),
        "revisions seen": len({label for label, _ in seen}),
        "texts by content": {str(k): len(v) for k, v in texts.items()},
        "median POST-to-effect ms": round(median, 1),
        "posts": len(took),
    }
    assert len(seen) == N_STREAMS and all(len(group) == 1 for group in texts.values())
    assert median < 100


def test_bad_input(server: Served, client: openai.OpenAI, figures: dict[str, Any]) -> None:
    """Every case has its status and words, and the engine lives."""
    table = cases(subject_of(server))
    wrong: list[str] = []
    for case in table:
        answer = server.http.request(
            case.method, case.path, content=case.body, headers=case.headers
        )
        if answer.status_code != case.status or case.says not in answer.text:
            wrong.append(f"{case.name}: {answer.status_code} {answer.text[:200]}")
    figures["bad input"] = {"cases": len(table), "wrong": wrong}
    assert len(table) >= 60 and not wrong
    assert ask(client, "hello")


def test_the_checkpoint_is_small() -> None:
    """All of the demo's binaries are 32 MB at most."""
    folders = (DEMO / "checkpoint", DEMO / "policies" / "artifacts")
    files = [file for folder in folders for file in Path(folder).iterdir()]
    assert sum(file.stat().st_size for file in files) <= 32 << 20
