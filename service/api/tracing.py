"""OpenTelemetry spans of requests, by the conventions for generative AI; off unless vLLM's are on.

vLLM sets up a tracer provider when it is given ``--otlp-traces-endpoint``; without one every span
here is empty and costs next to nothing. A span has names, figures and verdicts, and never text.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from service.api.decided import Deciding
from service.report import RequestReport
from service.verdicts import Verdict, finite

NAME = "trimtab"
EVALUATION = "gen_ai.evaluation.result"
OPERATIONS = {"/v1/completions": "text_completion", "/inference/v1/generate": "text_completion"}
"""What the conventions call a route; every other one is a chat."""


class RequestSpan:
    """The span of one request, from its selection to its last verdict."""

    def __init__(self, tracer: Tracer, deciding: Deciding, scope: Scope) -> None:
        """Begin it, under the caller's own span if the request carries one."""
        self._answer = deciding.answer
        operation = OPERATIONS.get(deciding.route, "chat")
        model = deciding.asked.fields.get("model")
        model = model if isinstance(model, str) else ""
        self._span: Span = tracer.start_span(
            f"{operation} {model}".strip(),
            context=propagate.extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes=_asked(deciding, operation, model),
        )

    def carried(self, scope: Scope) -> Scope:
        """Return the scope with this span as the parent of vLLM's own."""
        if not self._span.is_recording():
            return scope
        headers = MutableHeaders(raw=list(scope["headers"]))
        context = self._span.get_span_context()
        flags = f"{context.trace_flags:02x}"
        headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"
        return {**scope, "headers": headers.raw}

    def end(self, report: RequestReport, status: int | None, outcome: str) -> None:
        """Tell what monitors said and how the request went, and end the span."""
        if not self._span.is_recording():
            return
        for choice in report.choices.values():
            for verdict in choice.verdicts:
                self._span.add_event(EVALUATION, _said(verdict, self._answer, choice.index))
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("trimtab.outcome", outcome)
        reasons = [report.finishes[index] for index in sorted(report.finishes)]
        if reasons:
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)
        if outcome == "failed":
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _asked(deciding: Deciding, operation: str, model: str) -> Mapping[str, Any]:
    selection = deciding.asked.selection
    found = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": model,
        "gen_ai.response.id": deciding.answer,
        "http.route": deciding.route,
        "trimtab.request.id": deciding.request,
        "trimtab.policies": list(deciding.lease.policies),
        "trimtab.digest": deciding.lease.digest,
        "trimtab.binding": selection.binding.label,
        "trimtab.generation": deciding.generation,
    }
    return found if selection.side is None else found | {"trimtab.canary": selection.side}


def _said(verdict: Verdict, answer: str, index: int) -> Mapping[str, Any]:
    label = "fired" if verdict.fired else "fault" if verdict.fault is not None else "quiet"
    score = finite(verdict.score)
    figures = {
        "gen_ai.evaluation.score.value": score,
        "trimtab.threshold": verdict.threshold,
        "trimtab.rarity": finite(verdict.rarity),
        "trimtab.fault": verdict.fault,
        "trimtab.token": verdict.token,
    }
    return {
        "gen_ai.evaluation.name": verdict.monitor,
        "gen_ai.evaluation.score.label": label,
        "gen_ai.response.id": answer,
        "trimtab.policy": verdict.policy,
        "trimtab.mode": verdict.mode,
        "trimtab.action": verdict.action,
        "trimtab.coverage": verdict.coverage,
        "trimtab.choice": index,
        **{name: value for name, value in figures.items() if value is not None},
    }
