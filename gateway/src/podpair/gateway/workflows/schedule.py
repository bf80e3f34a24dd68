"""The requests of one partition that are to begin later, and whose records are written again then.

Invariant: a request is either kept, or on the requests topic again; the record that says so and the other one are written in one
transaction. For a while a marker tells that it was handed over: its cancellation, if it was read before, is written behind it.
"""

from collections.abc import Callable, Mapping

from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.workflows.records import Scheduled, encode, instance_key, scheduled_key
from podpair.gateway.core.workflows.timers import Timers
from podpair.gateway.worker.workflows import BeginHooks
from podpair.gateway.workflows.limits import Limits
from podpair.gateway.workflows.state_log import StateRecord
from podpair.gateway.workflows.writer import StepWriter


class Keeping:
    """A request that is to be kept."""

    def __init__(self, request: Scheduled, hooks: BeginHooks) -> None:
        self.request = request
        self._hooks = hooks
        self._over = False

    @property
    def key(self) -> str:
        """Its key on the workflows topic."""
        return scheduled_key(instance_key(self.request.session, self.request.id))

    def cancel(self) -> None:
        """Leave it, unless it is under way: whoever reads its record next keeps it."""
        self._over = True

    @property
    def wanted(self) -> bool:
        """Whether it is still to be kept."""
        return not self._over

    def refuse(self, fault: Fault) -> None:
        """End it: it can't be kept."""
        self._over = True
        self._hooks.on_refused(fault)

    def kept(self) -> None:
        """Tell that it is."""
        if not self._over:
            self._hooks.on_begun()


class Schedule:
    """What is kept of one partition. Its methods return the records of what they do, which are to be written together."""

    def __init__(self, number: int, topic: str, limits: Limits, writer: StepWriter) -> None:
        self._number = number
        self._topic = topic
        self._limits = limits
        self._writer = writer
        self._waiting: dict[str, Scheduled] = {}
        self._markers: dict[str, Scheduled] = {}
        self._timers = Timers()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wakes_at(self) -> float:
        """When the next is due, in Unix seconds; infinity if none is kept."""
        return self._timers.next

    def load(self, found: Mapping[str, Scheduled]) -> None:
        """Begin with what the records say."""
        self._timers = Timers()
        self._waiting, self._markers = {}, {}
        for key, request in found.items():
            self._put(key, request)

    def _put(self, key: str, request: Scheduled) -> None:
        if request.handed_over is None:
            self._waiting[key] = request
            self._timers.set(key, request.not_before)
        else:
            self._markers[key] = request
            self._timers.set(key, request.handed_over + self._limits.remember_seconds)

    def keep(self, keeping: Keeping, record_bytes: int) -> list[StateRecord]:
        """Keep a request, unless one with its id is kept, or it is read again. record_bytes: how large its record may be."""
        key, request = keeping.key, keeping.request
        marker = self._markers.get(key)
        was_kept = marker is not None and request.not_before <= (marker.handed_over or 0.0)
        if not keeping.wanted or key in self._waiting or was_kept:
            return []
        if len(self._waiting) >= self._limits.instances:
            message = f"{len(self._waiting)} requests are kept for later in this partition (workflows.max_instances)"
            keeping.refuse(Fault(Code.OVERLOADED, message, retry_after_ms=10_000))
            return []
        value = encode(request)
        if len(value) > record_bytes:
            keeping.refuse(
                Fault(Code.INVALID, f"it can't be kept ({len(value)} bytes): topic {self._topic} takes less")
            )
            return []
        self._markers.pop(key, None)
        self._put(key, request)
        return [self._record(key, value)]

    def cancel(self, key: str, *, ended_here: bool) -> list[StateRecord]:
        """Cancel a request. One that was handed over lately is cancelled behind that, unless it was in hand already."""
        request = self._waiting.pop(key, None)
        if request is not None:
            self._timers.forget(key)
            fault = Fault(Code.CANCELLED, "cancelled by its client")
            return [self._record(key, None), *self._writer.failed(request, fault)]
        marker = self._markers.pop(key, None)
        if marker is None:
            return []
        self._timers.forget(key)
        again = [] if ended_here else [self._writer.cancellation(marker, self._number)]
        return [self._record(key, None), *again]

    def due(self, now: float) -> list[StateRecord]:
        """Hand over the requests whose time has come, and remove markers that have served."""
        records = []
        for key in self._timers.take(now):
            request = self._waiting.pop(key, None)
            if request is None:
                del self._markers[key]
                records.append(self._record(key, None))
                continue
            marker = Scheduled(request.id, request.session, request.not_before, handed_over=now)
            self._put(key, marker)
            records += [self._writer.request(request, self._number), self._record(key, encode(marker))]
        return records

    def _record(self, key: str, value: bytes | None) -> StateRecord:
        return StateRecord(self._topic, key.encode(), value, partition=self._number)


OnSchedule = Callable[[Schedule], list[StateRecord]]
"""Something that happens to what is kept."""
