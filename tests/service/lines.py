"""Tells schemathesis how a stream's lines are written: OpenAPI has no word for it."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: schemathesis.SerializationContext, value: Any) -> bytes:  # noqa: ARG001
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
