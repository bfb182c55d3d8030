"""A real server sends its spans to a collector: ours with verdicts, vLLM's own beneath, no text."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.commands.serve import DEMO_NAME
from tests.served import Served

pytestmark = pytest.mark.prove

SECRET = "the zebra said bomb"
PATIENCE = 60


class Collector(ThreadingHTTPServer):
    """Keeps what is sent to it by OTLP over HTTP."""

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where spans go."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def spans(self) -> dict[str, Any]:
        """Return the spans that have come, by name; the last one of each."""
        found: dict[str, Any] = {}
        for body in list(self.bodies):
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    found |= {span.name: span for span in scope.spans}
        return found


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take a batch."""
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers.get("content-encoding") is None
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and the protocol that it speaks."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    made = Collector()
    yield made
    made.shutdown()


def test_spans_reach_a_collector(
    collector: Collector, tmp_path: Path, figures: dict[str, Any]
) -> None:
    """One request under a policy with monitors: a tree of two spans, an event a monitor."""
    options = ["--enforce-eager", "--otlp-traces-endpoint", collector.url]
    body = {
        "model": f"{DEMO_NAME}:watch",
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 8,
    }
    with Served(tmp_path, options) as server:
        answer = server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        name, deadline = f"chat {DEMO_NAME}", time.monotonic() + PATIENCE
        while not {name, "llm_request"} <= set(collector.spans()) and time.monotonic() < deadline:
            time.sleep(0.5)
        spans = collector.spans()
    ours, theirs = spans[name], spans["llm_request"]
    assert theirs.trace_id == ours.trace_id
    assert theirs.parent_span_id == ours.span_id
    told = {a.key: a.value.string_value for a in ours.attributes}
    assert told["trimtab.request.id"] == answer.headers["x-trimtab-request"]
    events = [
        {a.key: a.value.string_value for a in event.attributes}
        for event in ours.events
        if event.name == "gen_ai.evaluation.result"
    ]
    monitors = {event["gen_ai.evaluation.name"] for event in events}
    assert {"harm", "harm-answer", "refusal", "deception"} <= monitors
    assert not any(b"zebra" in sent for sent in collector.bodies)
    figures["evaluations"] = len(events)
    figures["spans"] = sorted(spans)
