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

    def trace_of(self, request: str) -> list[Any]:
        """Return the spans that have come of the trace that a request of ours is in."""
        found: list[Any] = []
        for body in list(self.bodies):
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        traces = {s.trace_id for s in found if _told(s).get("trimtab.request.id") == request}
        return [span for span in found if span.trace_id in traces]


def _told(span: Any) -> dict[str, str]:
    return {a.key: a.value.string_value for a in span.attributes}


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
        request, deadline = answer.headers["x-trimtab-request"], time.monotonic() + PATIENCE
        # The demo's own probes are traced too.
        while len(spans := collector.trace_of(request)) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
    by_name = {span.name: span for span in spans}
    assert len(spans) == 2
    ours, theirs = by_name[f"chat {DEMO_NAME}"], by_name["llm_request"]
    assert theirs.parent_span_id == ours.span_id
    events = [
        {a.key: a.value.string_value for a in event.attributes}
        for event in ours.events
        if event.name == "gen_ai.evaluation.result"
    ]
    monitors = {event["gen_ai.evaluation.name"] for event in events}
    assert {"harm", "harm-answer", "refusal", "deception"} <= monitors
    assert not any(b"zebra" in sent for sent in collector.bodies)
    figures["evaluations"] = len(events)
    figures["spans"] = sorted(by_name)
