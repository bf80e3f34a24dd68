"""gRPC's reflection service, which tools ask for the services' descriptions: grpcio's, imported when it is first asked."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from podpair.inference.grpc.status import Handler

NAME = "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService:
    """The service's one method. services: the names that it lists, besides its own."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = (*services, NAME)

    @property
    def handlers(self) -> dict[str, Handler]:
        """The methods by name."""
        return {"ServerReflectionInfo": Handler(stream_stream=self.ServerReflectionInfo)}

    async def ServerReflectionInfo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:  # noqa: N802
        """Answer what is asked of the descriptions."""
        reflection = await asyncio.to_thread(importlib.import_module, "grpc_reflection.v1alpha.reflection")
        messages = await asyncio.to_thread(importlib.import_module, "grpc_reflection.v1alpha.reflection_pb2")
        request = messages.ServerReflectionRequest.FromString
        decoded = (request(message) async for message in requests)
        servicer = reflection.aio.ReflectionServicer(self._names)
        async for response in servicer.ServerReflectionInfo(decoded, context):
            yield response.SerializeToString()
