"""Spans of requests: what they say, under whom they are, and that they are nothing when off."""

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import Scope

from service.api.middleware import PolicyMiddleware
from service.api.tracing import EVALUATION, RequestSpan
from service.report import ChoiceReport, RequestReport
from tests.service.api.test_labels import verdict
from tests.service.api.world import World

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans(world: World) -> InMemorySpanExporter:
    """Have the world's spans kept."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    layer = world.app.middleware_stack
    assert isinstance(layer, PolicyMiddleware)
    layer._tracer = provider.get_tracer("test")
    return kept


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    [span] = spans.get_finished_spans()
    return span


async def test_a_span_says_what_a_request_ran_under(world: World, spans: InMemorySpanExporter):
    answer = await world.chat(policy="formal")
    span = only(spans)
    found = dict(span.attributes or {})
    assert (span.name, span.kind) == ("chat toy", SpanKind.SERVER)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == "toy"
    assert found["trimtab.policies"] == ("guard@1", "formal@1")
    assert found["trimtab.digest"] == answer.headers["x-trimtab-digest"]
    assert found["trimtab.request.id"] == answer.headers["x-trimtab-request"]
    assert found["gen_ai.response.id"] == f"chatcmpl-{found['trimtab.request.id']}"
    assert (found["http.response.status_code"], found["trimtab.outcome"]) == (200, "served")
    assert "hi" not in str([*found.values()])


async def test_vllm_s_span_is_under_it_and_it_under_the_caller_s(
    world: World, spans: InMemorySpanExporter
):
    await world.chat(headers={"traceparent": PARENT})
    span = only(spans)
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert f"{span.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    carried = RequestSpan.carried
    seen: list[str] = []

    def noted(self: RequestSpan, scope: Scope) -> Scope:
        made = carried(self, scope)
        seen.extend(v.decode() for k, v in made["headers"] if k == b"traceparent")
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestSpan, "carried", noted)
        await world.chat(headers={"traceparent": PARENT})
    second = spans.get_finished_spans()[1]
    assert seen == [f"00-{second.context.trace_id:032x}-{second.context.span_id:016x}-01"]


async def test_a_verdict_is_an_evaluation_without_text(
    world: World, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    end = RequestSpan.end

    def with_verdict(self: RequestSpan, report: RequestReport, status: int, outcome: str) -> None:
        made = ChoiceReport("r", "a", 0, 4, 1, (verdict("harm", "guard@1"),), captured="secret")
        report.add(made)
        report.finishes[0] = "stop"
        end(self, report, status, outcome)

    monkeypatch.setattr(RequestSpan, "end", with_verdict)
    await world.chat()
    span = only(spans)
    [event] = span.events
    found = dict(event.attributes or {})
    assert event.name == EVALUATION
    assert found["gen_ai.evaluation.name"] == "harm"
    assert found["gen_ai.evaluation.score.value"] == 1.0
    assert found["gen_ai.evaluation.score.label"] == "fired"
    assert (found["trimtab.policy"], found["trimtab.mode"]) == ("guard@1", "enforce")
    assert dict(span.attributes or {})["gen_ai.response.finish_reasons"] == ("stop",)
    assert "secret" not in str(found)


async def test_a_failure_is_an_error(world: World, spans: InMemorySpanExporter):
    await world.chat(die=True)
    span = only(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "503"


async def test_off_is_nothing(world: World):
    answer = await world.chat(headers={"traceparent": PARENT})
    assert answer.status_code == 200
    layer = world.app.middleware_stack
    assert isinstance(layer, PolicyMiddleware)
    assert not layer._tracer.start_span("x").is_recording()
