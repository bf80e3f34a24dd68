"""The order of a session's requests (`requests.ordering: session`): one waits until the one before it is delivered.

Invariant: a request that leaves from the middle, since it was cancelled while it waited, lets nobody pass.
"""

from podpair.gateway.worker.partition import PartitionState
from podpair.gateway.worker.request import QueuedRequest


class SessionOrder:
    """Links the requests in flight of each session, by the key of their records."""

    def __init__(self) -> None:
        self._newest: dict[tuple[PartitionState, bytes], QueuedRequest] = {}

    def __len__(self) -> int:
        return len(self._newest)

    def join(self, request: QueuedRequest) -> bool:
        """Put a request behind the last one of its session. Returns whether its turn is now."""
        key = request.record.key()
        if key is None:
            return True
        before = self._newest.get((request.partition, key))
        self._newest[request.partition, key] = request
        if before is None:
            return True
        before.successor, request.predecessor = request, before
        return False

    def leave(self, request: QueuedRequest) -> QueuedRequest | None:
        """Close the gap that a request leaves. Returns the one whose turn it is then, if that is still open."""
        before, after = request.predecessor, request.successor
        request.predecessor = request.successor = None
        if after is not None:
            after.predecessor = before
        elif (key := request.record.key()) is not None and self._newest.get((request.partition, key)) is request:
            if before is not None:
                self._newest[request.partition, key] = before
            else:
                del self._newest[request.partition, key]
        if before is not None:
            before.successor = after
            return None
        return after if after is not None and after.open else None
