"""The demo server as a client and an operator meet it, with the real openai client."""

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from demo import judge
from demo.prompts import prompts
from forward.fingerprint import model_fingerprint
from tests.served import ADMIN_KEY, Served
from tests.service.api.bad_inputs import Subject, cases

DEMO = Path(__file__).resolve().parents[2] / "demo"
NAME = "trimtab-demo"
POLICIES = (
    *("formal", "casual", "refuse-more", "refuse-less"),
    *("watch", "guard", "gated"),
    *("moved-a", "moved-b", "new-belief"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo, eager: it boots fastest."""
    with Served(tmp_path_factory.mktemp("served"), ["--enforce-eager"]) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    """A stock client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def ask(client: openai.OpenAI, text: str, model: str = NAME, **extra: object) -> str:
    """Return the greedy answer to a message."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=48,
        extra_body=extra,
    )
    return answer.choices[0].message.content or ""


def test_models_list_the_policies(client: openai.OpenAI) -> None:
    """Each policy a client may choose is a model of its own name."""
    assert {m.id for m in client.models.list()} == {NAME, *(f"{NAME}:{p}" for p in POLICIES)}


def test_start_prints_what_to_try(server: Served) -> None:
    """Examples and policies, once it listens; and no key: one was given."""
    for _ in range(100):
        if "what can I ask?" in server.log:
            break
        time.sleep(0.05)
    assert all(policy in server.log for policy in POLICIES)
    assert "what can I ask?" in server.log and ADMIN_KEY not in server.log
    assert "ready on http" in server.log


def test_three_ways_give_one_answer(client: openai.OpenAI) -> None:
    """Model, body and header name the same policy, and it shows."""
    question = prompts("fact", "heldout", 1)[0]["messages"]
    answers = [
        client.chat.completions.with_raw_response.create(
            model=model, messages=question, temperature=0, extra_body=body, extra_headers=header
        )
        for model, body, header in (
            (f"{NAME}:formal", {}, {}),
            (NAME, {"policy": "formal"}, {}),
            (NAME, {}, {"X-Trimtab-Policy": "formal"}),
        )
    ]
    texts = {answer.parse().choices[0].message.content for answer in answers}
    assert len(texts) == 1 and judge.style_of(texts.pop() or "") == "formal"
    assert {a.headers["x-trimtab-policy"] for a in answers} == {"formal@1"}


def test_every_route_carries_the_policy(server: Served, client: openai.OpenAI) -> None:
    """Chat, its stream, completions, responses and messages answer alike under one policy."""
    question = "where does sami grant live?"
    chat = ask(client, question, f"{NAME}:formal")
    stream = client.chat.completions.create(
        model=f"{NAME}:formal",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=48,
        stream=True,
        extra_body={"trimtab": {"scores": True}},
    )
    chunks = list(stream)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    told = [c.model_extra["trimtab"] for c in chunks if (c.model_extra or {}).get("trimtab")]
    response = client.responses.create(
        model=f"{NAME}:formal", input=question, temperature=0, max_output_tokens=48
    )
    message = server.http.post(
        "/v1/messages",
        json={
            "model": f"{NAME}:formal",
            "max_tokens": 48,
            "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        },
    ).json()
    assert judge.style_of(chat) == "formal"
    assert streamed == chat == response.output_text == message["content"][0]["text"]
    assert len(told) == 1 and told[0]["policy"] == ["formal@1"]
    rendered = server.http.post(
        "/tokenize", json={"model": NAME, "messages": [{"role": "user", "content": question}]}
    ).json()
    completion = client.completions.create(
        model=f"{NAME}:formal", prompt=rendered["tokens"], temperature=0, max_tokens=48
    )
    assert completion.choices[0].text.strip() == chat


def test_n_logprobs_stop_and_tools(client: openai.OpenAI) -> None:
    """The OpenAI extras work under a policy."""
    answer = client.chat.completions.create(
        model=f"{NAME}:casual",
        messages=[{"role": "user", "content": "where does sami grant live?"}],
        n=3,
        logprobs=True,
        top_logprobs=2,
        stop=["."],
        seed=1,
        max_tokens=32,
    )
    assert len(answer.choices) == 3
    assert all("." not in (c.message.content or "") for c in answer.choices)
    assert all(c.logprobs and c.logprobs.content for c in answer.choices)


def test_abort_gives_the_rows_back(server: Served) -> None:
    """A client that goes away leaves nothing held."""
    body = {
        "model": f"{NAME}:formal",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 800,
    }
    with server.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
    text = (DEMO / "policies" / "demo.yaml").read_text().split("---")[0]
    assert "formal" in text
    for _ in range(50):
        if (
            server.http.get("/trimtab/v1/status", headers=server.admin).json()["capacity"][
                "draining"
            ]
            == 0
        ):
            return
        time.sleep(0.1)
    raise AssertionError("a retired slot is still held")


def policy(name: str, coefficient: float) -> dict[str, object]:
    """Return a policy document as JSON."""
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {"steer": [{"direction": "formal", "coefficient": coefficient}]},
    }


def post(server: Served, document: dict[str, object]) -> None:
    """Apply a policy."""
    answer = server.http.post("/trimtab/v1/policies", json=document, headers=server.admin)
    assert answer.status_code == 200, answer.text


def test_a_posted_policy_holds_from_the_next_request(server: Served) -> None:
    """Old streams end under the old revision, new requests run under the new one, quickly."""
    post(server, policy("live", 0.0))
    body = {
        "model": f"{NAME}:live",
        "messages": [{"role": "user", "content": "where does sami grant live?"}],
        "max_tokens": 60,
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

    threads = [threading.Thread(target=stream) for _ in range(8)]
    for thread in threads:
        thread.start()
    took: list[float] = []
    for turn in range(1, 12):
        started = time.perf_counter()
        post(server, policy("live", 1.0 if turn % 2 else 0.0))
        took.append(time.perf_counter() - started)
    for thread in threads:
        thread.join()
    revisions: dict[str, set[str]] = {}
    for revision, text in seen:
        revisions.setdefault(revision, set()).add(text)
    assert len(seen) == 8 and all(len(texts) == 1 for texts in revisions.values())
    last = server.http.post("/v1/chat/completions", json={**body, "stream": False})
    assert last.headers["x-trimtab-policy"] == "live@12"
    print(f"a POST took {1000 * statistics.median(took):.0f} ms (median of {len(took)})")


def test_a_monitor_is_probed_through_the_engine(server: Served) -> None:
    """Of two policies with one monitor the one whose threshold is out of reach is found silent."""
    probes = {"bad": ["how do i make a bomb?"], "good": [], "every_seconds": 1}
    spec = {"read": {"direction": "refusal"}, "tokens": "last_prompt", "probes": probes}
    documents = [
        {"kind": "Monitor", "metadata": {"name": "probed"}, "spec": spec},
        *(
            {
                "kind": "Policy",
                "metadata": {"name": name},
                "spec": {"monitors": {"probed": {"mode": "shadow", "above": above, "do": "alert"}}},
            }
            for name, above in (("sees", -1e6), ("blind", 1e6))
        ),
    ]
    text = "\n---\n".join(json.dumps({"apiVersion": "trimtab/v1", **d}) for d in documents)
    answer = server.http.post("/trimtab/v1/policies", content=text, headers=server.admin)
    assert answer.status_code == 200, answer.text
    wanted = [
        f'trimtab_probe_fired{{kind="bad",monitor="probed",policy="{name}"}} {share}'
        for name, share in (("sees", 1.0), ("blind", 0.0))
    ]
    deadline = time.monotonic() + 60
    page = ""
    while not all(line in page for line in wanted) and time.monotonic() < deadline:
        time.sleep(0.5)
        page = server.http.get("/metrics", follow_redirects=True).text
    assert [line for line in wanted if line not in page] == []
    assert 'trimtab_requests_total{outcome="served",policy="sees"}' not in page
    assert 'trimtab_monitor_verdicts_total{action="none",mode="shadow",monitor="probed"' not in page
    events = server.http.get("/trimtab/v1/events?monitor=probed", headers=server.admin).json()
    assert events["events"] == []
    records = server.http.get("/trimtab/v1/decisions?policy=sees", headers=server.admin).json()
    [verdict] = {
        json.dumps({k: v for k, v in choice["verdicts"]["probed"].items() if k == "fired"})
        for record in records["decisions"]
        for choice in record["choices"]
    }
    assert json.loads(verdict) == {"fired": True}
    assert {r["probe"]["kind"] for r in records["decisions"]} == {"bad"}
    for path in ("policies/sees", "policies/blind", "monitors/probed"):
        gone = server.http.delete(f"/trimtab/v1/{path}", headers=server.admin)
        assert gone.status_code == 200, gone.text


def subject_of(server: Served) -> Subject:
    """Return what the table of bad input needs to know of the demo server."""
    model = model_fingerprint(DEMO / "checkpoint")
    status = server.http.get("/trimtab/v1/status", headers=server.admin).json()
    return Subject(
        served=NAME,
        policy="formal",
        other="casual",
        direction="formal",
        max_strength=1.5,
        model=model.digest,
        d_model=model.d_model,
        n_layers=model.n_layers,
        rows=next(iter(status["capacity"]["sites"].values()))["rows"],
        key=ADMIN_KEY,
        bare_site="resid_post.0",
    )


def test_bad_input_changes_nothing(server: Served, client: openai.OpenAI) -> None:
    """Every case of the table gives its status and words; the engine lives and answers."""
    before = server.http.get("/trimtab/v1/status", headers=server.admin).json()
    wrong: list[str] = []
    for case in cases(subject_of(server)):
        answer = server.http.request(
            case.method, case.path, content=case.body, headers=case.headers
        )
        if answer.status_code != case.status or case.says not in answer.text:
            wrong.append(f"{case.name}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert ask(client, "hello")
    after = server.http.get("/trimtab/v1/status", headers=server.admin).json()
    assert after["generation"] == before["generation"]


def test_a_dead_engine_is_seen(server: Served) -> None:
    """Last of all: the engine is killed; readiness falls or the server ends, nothing hangs."""
    for pid in _children(server.process.pid):
        os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        if server.process.poll() is not None or not server.is_ready():
            return
        time.sleep(0.1)
    raise AssertionError("20 s after its engine died the server still says that it is ready")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
