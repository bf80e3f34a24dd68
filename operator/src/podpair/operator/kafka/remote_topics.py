"""Manages topics in child processes: one per address and credentials. The operator's own process has no Kafka client.

librdkafka crashes its process if a broker sends what it doesn't expect, and whoever may create a resource chooses the broker. So
a crash costs that broker's process only, which is restarted with a back-off; its resources' KafkaReady says why.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.broker_access import BrokerAccess, broker_access
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.core.ownership import DeletionResult
from podpair.operator.processes.pool import Limits, ProcessPool
from podpair.operator.processes.process import CallFailed, ProcessFailed

_MODULE = "podpair.operator.kafka.topic_service"


class DeletionFailed(Exception):
    """What was asked for was not done. The text says why, and what to do."""


class RemoteTopics:
    """Has the methods of `podpair.operator.kafka.topics.Topics`. Used on one event loop; `close` it."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        log: tuple[str, str] | None = None,
        on_change: Callable[[int], object] = lambda count: None,
        on_failure: Callable[[str], object] = lambda how: None,
    ) -> None:
        """As for ProcessPool."""
        self.pool = ProcessPool(_MODULE, limits, log=log, on_change=on_change, on_failure=on_failure)

    async def reconcile(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> KafkaState:
        """Call `Topics.reconcile`. Raises CallFailed if that raised unexpectedly."""
        access = broker_access(gateway, credentials)
        try:
            seen: KafkaState = await self._run("reconcile", KafkaState, access, gateway, credentials, *more)
            return seen
        except ProcessFailed as failure:
            reason = Reason.CLIENT_BUSY if failure.how == "busy" else Reason.CLIENT_FAILED
            return KafkaState(False, reason, _sentence(access, failure))

    async def release(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> None:
        """Call `Topics.release`. Raises nothing."""
        with contextlib.suppress(CallFailed, ProcessFailed):
            access = broker_access(gateway, credentials)
            await self._run("release", None, access, gateway, credentials, *more)

    async def delete(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> DeletionResult:
        """Call `Topics.delete`. Raises DeletionFailed: try again later."""
        access = broker_access(gateway, credentials)
        try:
            done: DeletionResult = await self._run("delete", DeletionResult, access, gateway, credentials, *more)
            return done
        except CallFailed as failure:
            raise DeletionFailed(str(failure)) from None
        except ProcessFailed as failure:
            raise DeletionFailed(_sentence(access, failure)) from None

    async def _run(self, method: str, returns: Any, access: BrokerAccess, gateway: InferenceGateway, *args: Any) -> Any:
        """Call a method of `Topics` and return its result as a `returns`. Raises CallFailed, ProcessFailed."""
        user = gateway.metadata.namespace, gateway.metadata.name
        found = await self.pool.call(
            access, f"the broker at {access.servers}", "run", method, gateway, *args, user=user
        )
        try:
            return TypeAdapter(returns).validate_python(found)
        except ValidationError:
            raise ProcessFailed("protocol", "it sent what is no answer") from None

    async def close(self) -> None:
        """End all processes."""
        await self.pool.close()


def _sentence(access: BrokerAccess, why: ProcessFailed) -> str:
    if why.how == "busy":
        return (
            f"the broker at {access.servers} could not be probed: {why}; podpair tries again. Raise the operator's"
            " brokers.processes (chart podpair-operator) where there are that many brokers"
        )
    return (
        f"the process that asks the broker at {access.servers} failed: {why}. It is started again, less and less often;"
        " other resources are not affected. Check that what listens at spec.kafka.bootstrapServers is a Kafka broker that"
        " works, and look into the operator's log"
    )
