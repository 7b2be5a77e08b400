"""The caller's trace goes on in the router: W3C headers, where the program uses OpenTelemetry."""

from __future__ import annotations

import sys


def headers() -> tuple[tuple[str, str], ...]:
    """Return what tells the router of the current span; nothing outside of one, or without OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return ()
    from opentelemetry.propagate import inject  # finds its propagators among all installed packages

    carrier: dict[str, str] = {}
    inject(carrier)
    # Metadata of gRPC has names in lower case.
    return tuple((name.lower(), value) for name, value in carrier.items())
