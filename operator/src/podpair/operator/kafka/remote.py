"""Topics, kept by child processes: one for each way to a broker. The operator's own process opens no Kafka client.

librdkafka ends its process where a broker answers what it doesn't expect, and who may create a resource chooses the broker. So
that costs the one broker's process, which is started again, less and less often; its resources' KafkaReady says why.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from podpair.operator.core.broker_access import BrokerAccess, broker_access
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaSeen, Reason
from podpair.operator.core.ownership import Forgotten
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.processes.pool import Limits, ProcessPool
from podpair.operator.processes.process import CallFailed, ProcessFailed

_MODULE = "podpair.operator.kafka.served"


class NotAnswered(Exception):
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

    async def keep(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> KafkaSeen:
        """As `Topics.keep`. Raises CallFailed where that raised what it doesn't mean to."""
        access = broker_access(gateway, credentials)
        try:
            seen: KafkaSeen = await self._run("keep", KafkaSeen, access, gateway, credentials, *more)
            return seen
        except ProcessFailed as failure:
            reason = Reason.CLIENT_BUSY if failure.how == "busy" else Reason.CLIENT_FAILED
            return KafkaSeen(False, reason, _sentence(access, failure))

    async def release(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> None:
        """As `Topics.release`. Raises nothing."""
        with contextlib.suppress(CallFailed, ProcessFailed):
            access = broker_access(gateway, credentials)
            await self._run("release", None, access, gateway, credentials, *more)

    async def forget(self, gateway: InferenceGateway, credentials: Credentials, *more: Any) -> Forgotten:
        """As `Topics.forget`. Raises NotAnswered: try again later."""
        access = broker_access(gateway, credentials)
        try:
            done: Forgotten = await self._run("forget", Forgotten, access, gateway, credentials, *more)
            return done
        except CallFailed as failure:
            raise NotAnswered(str(failure)) from None
        except ProcessFailed as failure:
            raise NotAnswered(_sentence(access, failure)) from None

    async def _run(self, method: str, returns: Any, access: BrokerAccess, gateway: InferenceGateway, *args: Any) -> Any:
        """What a method of `Topics` returns, which is a `returns`. Raises CallFailed, ProcessFailed."""
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
            f"the broker at {access.servers} could not be asked: {why}; podpair tries again. Raise the operator's"
            " brokers.processes (chart podpair-operator) where there are that many brokers"
        )
    return (
        f"the process that asks the broker at {access.servers} failed: {why}. It is started again, less and less often;"
        " other resources are not affected. Check that what listens at spec.kafka.bootstrapServers is a Kafka broker that"
        " works, and look into the operator's log"
    )
