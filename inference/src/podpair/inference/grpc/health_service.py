"""gRPC's health service: the health of each service, asked once or watched."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from podpair.inference.grpc.status import Handler, Status

NAME = pb.DESCRIPTOR.services_by_name["Health"].full_name
_SERVING, _NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """The service's methods. It serves nothing until `serve`, and nothing for good after `refuse`."""

    def __init__(self) -> None:
        self._services: set[str] = set()
        self._refusing = False
        # Set, and made anew, when something has changed.
        self._changed = asyncio.Event()

    @property
    def handlers(self) -> dict[str, Handler]:
        """The methods by name."""
        decode, encode = pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
        return {
            "Check": Handler(unary_unary=self.Check, request_deserializer=decode, response_serializer=encode),
            "Watch": Handler(unary_stream=self.Watch, request_deserializer=decode, response_serializer=encode),
        }

    def serve(self, services: Iterable[str]) -> None:
        """Report that these are healthy; the name of the server as a whole is empty."""
        self._services.update(services)
        self._tell()

    def refuse(self) -> None:
        """Report from now on that all are unhealthy."""
        self._refusing = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _UNKNOWN
        return _NOT_SERVING if self._refusing else _SERVING

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's own name, as below
        """Answer how a service is. It has to be one that is known."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(Status.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answer how a service is, now and whenever that changes."""
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                yield pb.HealthCheckResponse(status=status)
            last = status
            await changed.wait()
