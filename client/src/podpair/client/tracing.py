"""The trace context of the caller, if it uses OpenTelemetry: looked for, never loaded."""

import sys


def current_traceparent() -> str | None:
    """Return the W3C `traceparent` of the active span; None if there is none."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
