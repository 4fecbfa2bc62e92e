"""Traces by OpenTelemetry, made by hand: a span for each request, webhook, call, fetch and attempt.

Tracing is off unless the standard `OTEL_*` variables name an exporter; then a span does nothing, and the SDK
is not loaded. Attributes are ids of sessions, tenants and templates, kinds and statuses, never content. An
error's message may quote content, so only its class is an attribute.

A dictation is one trace, the one of its create call: the session's row keeps its `traceparent` (W3C Trace
Context).
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger()

Kind = Literal["server", "client", "consumer"]
Attributes = Mapping[str, str | int | None]

_HEADER = "traceparent"
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# A stopping process waits this long for the collector to accept the last spans.
_FLUSH_SECONDS = 2.0
_NO_SPAN: AbstractContextManager[None] = nullcontext()
_propagator = TraceContextTextMapPropagator()


class _Tracing:
    """The tracer and its provider in this process; None while tracing is off."""

    tracer: Tracer | None = None
    provider: "TracerProvider | None" = None


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables switch tracing on with the OTLP exporter."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = [name.strip() for name in environment.get("OTEL_TRACES_EXPORTER", "").split(",")]
    if exporters != [""]:
        return "otlp" in exporters
    return any(environment.get(name, "").strip() for name in _ENDPOINTS)


def start_tracing(process: Literal["serve", "worker"]) -> None:
    """Start the OTLP exporter if the `OTEL_*` variables ask for it; the collector need not be reachable."""
    if not is_wanted(os.environ):
        return
    # Imported here because they cost 60 ms and 12 MB, and most processes run without traces.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.version": version("ekabridge")})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: f"ekabridge-{process}"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _Tracing.provider, _Tracing.tracer = provider, provider.get_tracer("ekabridge")
    log.info("tracing_started", process=process)


def stop_tracing() -> None:
    """Send the remaining spans; an unreachable collector delays the stop by two seconds at most."""
    provider = _Tracing.provider
    if provider is None:
        return
    _Tracing.provider = _Tracing.tracer = None
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(_FLUSH_SECONDS)


def is_on() -> bool:
    """Whether spans are made in this process."""
    return _Tracing.tracer is not None


def span(
    name: str, kind: Kind, attributes: Attributes | None = None, *, link: str | None = None
) -> AbstractContextManager[Span | None]:
    """Open a child span of the current span around the block; None while tracing is off.

    `link`: a traceparent to link to, without being the parent. An error that leaves the block is recorded by
    its class alone.
    """
    return _span(name, kind, attributes, context=None, link=link)


def span_of(
    traceparent: str | None,
    name: str,
    kind: Kind,
    attributes: Attributes | None = None,
    *,
    link: str | None = None,
) -> AbstractContextManager[Span | None]:
    """Open a span in the trace of a traceparent, or a new trace if it is None."""
    context = _context(traceparent) if is_on() else None
    return _span(name, kind, attributes, context=context, link=link)


def _span(
    name: str, kind: Kind, attributes: Attributes | None, *, context: Context | None, link: str | None
) -> AbstractContextManager[Span | None]:
    if _Tracing.tracer is None:
        return _NO_SPAN
    return _made_span(_Tracing.tracer, name, kind, attributes, context, link)


@contextmanager
def _made_span(
    tracer: Tracer,
    name: str,
    kind: Kind,
    attributes: Attributes | None,
    context: Context | None,
    link: str | None,
) -> Iterator[Span | None]:
    linked = trace.get_current_span(_context(link)).get_span_context()
    with tracer.start_as_current_span(
        name,
        context,
        kind=_KINDS[kind],
        attributes={key: value for key, value in (attributes or {}).items() if value is not None},
        links=[Link(linked)] if linked.is_valid else None,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            fail(made, type(error).__name__)
            raise


def fail(made: Span | None, error_class: str) -> None:
    """Mark a span as failed, with the error's class and never its message."""
    if made is not None:
        made.set_status(Status(StatusCode.ERROR))
        made.set_attribute("error.type", error_class)


def note(name: str, value: str | int) -> None:
    """Add an attribute to the current span."""
    if _Tracing.tracer is not None:
        trace.get_current_span().set_attribute(name, value)


def note_failure(error_class: str) -> None:
    """Mark the current span as failed."""
    if _Tracing.tracer is not None:
        fail(trace.get_current_span(), error_class)


def current_traceparent() -> str | None:
    """Return the traceparent of the current span, or None."""
    return trace_headers().get(_HEADER)


def trace_headers() -> dict[str, str]:
    """Return the headers that continue the current trace at the called server."""
    headers: dict[str, str] = {}
    if _Tracing.tracer is not None:
        _propagator.inject(headers)
    return headers


def _context(traceparent: str | None) -> Context:
    """Return a context with this parent, or without one if the traceparent is malformed."""
    return _propagator.extract({_HEADER: traceparent} if traceparent else {}, Context())


def add_trace_ids(_: Any, __: str, event: Any) -> Any:
    """Add the current span's ids to a log event: a processor of structlog."""
    if _Tracing.tracer is not None:
        present = trace.get_current_span().get_span_context()
        if present.is_valid:
            event["trace_id"], event["span_id"] = f"{present.trace_id:032x}", f"{present.span_id:016x}"
    return event
