"""One module for each RPC service: from message to command and back."""

from typing import Any, TypeAlias

from grpc.aio import ServicerContext

# The class takes type parameters only in its stubs.
Context: TypeAlias = "ServicerContext[Any, Any]"
