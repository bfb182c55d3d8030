"""Stock clients at full size: the official one finds plain vLLM's answers, others find policies.

And requests of every kind to our own routes, made from their description.
"""

import json
import os
import re
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from demo import judge
from demo.prompts import conversation, prompts
from service.commands.serve import DEMO_NAME, DEMO_OPTIONS
from tests import scribe
from tests.conforming import Subject, answers
from tests.evidence import ROOT
from tests.openai_answers import unequal
from tests.openai_suite import BY_CONTRACT, Ask, Messages, asks
from tests.served import Served
from tests.service.api.listening import Listening
from tests.service.api.test_described import made, run

pytestmark = pytest.mark.prove

DEMO = ROOT / "demo"
KINDS = ("fact", "harmful", "harmless", "formal", "casual", "lie-instructed", "tale", "padded")
SAID = (
    *("where does sami grant live?", "", "¿dónde está 東京? 🙂", '{"a": [1, 2, {"b": null}]}'),
    *("a " * 150, "<tool_call>", "line\nline\ttab", "}}{{ '%s' ${x}"),
)
LOCK = ROOT / "requirements" / "clients.lock"
SIDE = Path(__file__).with_name("clients_side.py")
POLICIES = ("none", "formal", "casual", "refuse-more")
EXAMPLES = 60
QUESTIONS = ("where does sami grant live?", "how do i make bread?", "who are you?")


def demo(folder: Path) -> Subject:
    """The demo model and its policies."""
    options = tuple(part for option in DEMO_OPTIONS.items() for part in option)
    return Subject(DEMO / "checkpoint", DEMO / "policies", options)


def writer(folder: Path) -> Subject:
    """A model that can write JSON and call tools."""
    checkpoint = scribe.save_scribe(folder / "scribe")
    (folder / "policies").mkdir()
    return Subject(
        checkpoint, scribe.save_policies(checkpoint, folder / "policies"), scribe.OPTIONS
    )


def everything(name: str, conversations: list[Messages], spaces: tuple[int, ...]) -> list[Ask]:
    """Return the suite about every conversation; errors and models, which it leaves alike, once."""
    found = asks(name, conversations[0], spaces)
    once = ("refused", "models", "wrong key")
    for number, messages in enumerate(conversations[1:], start=2):
        again = [a for a in asks(name, messages, spaces) if not any(o in a.name for o in once)]
        found += [Ask(f"{a.name} ({number})", a.route, a.fields, a.key) for a in again]
    return found


def demo_conversations() -> list[Messages]:
    """Held-out prompts of many kinds."""
    return [[*conversation(prompts(kind, "heldout", 1)[0])] for kind in KINDS]


def written_conversations() -> list[Messages]:
    """What is awkward to render, to tokenize or to write as JSON."""
    return [[{"role": "user", "content": text}] for text in SAID]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("model", ["demo", "scribe"])
def test_the_official_client(
    tmp_path: Path, figures: dict[str, Any], model: str, mode: str
) -> None:
    """The same asks, one after another, of plain vLLM and of Trimtab under no policy."""
    made = demo(tmp_path) if model == "demo" else writer(tmp_path)
    more = ("--enforce-eager",) if mode == "eager" else ()
    subject = Subject(made.checkpoint, made.policies, (*made.options, *more))
    asked = (
        everything(DEMO_NAME, demo_conversations(), ())
        if model == "demo"
        else everything(scribe.NAME, written_conversations(), scribe.SPACES)
    )
    for name in ("plain", "trimtab"):
        (tmp_path / name).mkdir()
    with subject.plain(tmp_path / "plain") as server:
        plain = answers(server, asked)
    with subject.trimtab(tmp_path / "trimtab") as server:
        ours = answers(server, asked)
    different = unequal(plain, ours)
    figures[f"{model}, {mode}"] = {
        "asks": len(asked),
        "equal": len(asked) - len(different),
        "compared by status alone, by contract": len(BY_CONTRACT),
        "refused alike": sum("error" in found for found in plain.values()),
        "streams": sum("stream" in found for found in plain.values()),
        "different": {name: where[:3] for name, where in list(different.items())[:20]},
    }
    assert len(asked) == len(plain) == len(ours) > 500
    assert not different


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo under its policies, as `make serve` starts it but for compiling."""
    with Served(tmp_path_factory.mktemp("served"), ["--enforce-eager"]) as served:
        yield served


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the other clients."""
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True, system_site_packages=False)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run([*command, "-r", str(LOCK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip could not install {LOCK.name}: {done.stderr[-2000:]}"
    return python


def test_other_clients(
    server: Served, python: Path, tmp_path: Path, figures: dict[str, Any]
) -> None:
    """LangChain's and LiteLLM's clients name a policy by the model; each answers as it should."""
    models = [DEMO_NAME, *(f"{DEMO_NAME}:{policy}" for policy in POLICIES)]
    url = f"{server.url}/v1"
    asked = tmp_path / "asked.json"
    body = {"url": url, "key": "unused", "models": models, "questions": QUESTIONS}
    asked.write_text(json.dumps(body))
    environment = {**os.environ, "PYTHONPATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [str(python), str(SIDE), str(asked)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        expected = {
            model: {question: said(client, model, question) for question in QUESTIONS}
            for model in models
        }
    figures["other clients"] = {"answers": expected, "clients": sorted(found)}
    for name, by_model in found.items():
        for model, by_question in by_model.items():
            for question, got in by_question.items():
                whole = expected[model][question]
                assert got == {"whole": whole, "streamed": whole}, f"{name}, {model}: {question}"
    question = QUESTIONS[0]
    styles = {m: judge.style_of(expected[m][question]) for m in models}
    assert styles[f"{DEMO_NAME}:formal"] == "formal" and styles[f"{DEMO_NAME}:casual"] == "casual"
    assert expected[DEMO_NAME] == expected[f"{DEMO_NAME}:none"]
    assert expected[DEMO_NAME] != expected[f"{DEMO_NAME}:refuse-more"]


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_our_own_routes(tmp_path: Path, figures: dict[str, Any], mode: str) -> None:
    """Requests made from the description: each of its terms at its limits, then at random."""
    file = tmp_path / "openapi.json"
    options = ("--phases", "coverage,fuzzing", "--mode", mode)
    with Listening(lambda: made(file)) as world:
        sides = (("--exclude-method", "DELETE"), ("--include-method", "DELETE"))
        told = [run(file, world.url, *options, *s, examples=EXAMPLES, seconds=3600) for s in sides]
    passed = sum(int(n) for one in told for n in re.findall(r"(\d+) generated, \1 passed", one))
    paths = json.loads(file.read_text())["paths"]
    figures[f"our own routes, {mode}"] = {
        "operations": sum(len(methods) for methods in paths.values()),
        "requests": passed,
        "faults": 0,
    }
    assert passed > 1000


def said(client: openai.OpenAI, model: str, question: str) -> str:
    """Return what the official client gets."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=48,
    )
    return answer.choices[0].message.content or ""
