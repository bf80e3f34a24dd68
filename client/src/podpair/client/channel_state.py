"""What is subscribed to, and up to where, without I/O.

Invariants: after each new connection every channel is subscribed to again, from the position of the last event that was taken.
What the gateway says of a former subscription to a channel, or of one that it made unasked, is not taken for a word about the
present one: each `subscribe` has an id, and until its answer nothing of its channel is taken.
"""

from dataclasses import dataclass, field

from podpair.client.events import Event

_ID = "s-"  # what the ids of `subscribe` begin with


@dataclass(slots=True)
class ChannelStates:
    """What is subscribed to, without I/O."""

    #: By channel, the position from which to go on; None: from now on.
    positions: dict[str, str | None] = field(default_factory=dict)
    #: By channel, the id of the `subscribe` that is not answered yet.
    _asked: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def subscribe(self, channel: str, position: str | None) -> Event:
        """Note a channel, and return the frame that subscribes to it."""
        self._count += 1
        name = self._asked[channel] = f"{_ID}{self._count}"
        self.positions[channel] = position
        return {"type": "subscribe", "id": name, "channel": channel} | ({"position": position} if position else {})

    def unsubscribe(self, channel: str) -> Event:
        """Forget a channel, and return the frame that says so."""
        self.positions.pop(channel, None)
        self._asked.pop(channel, None)
        return {"type": "unsubscribe", "channel": channel}

    def frames(self) -> list[Event]:
        """Return the frames with which a new connection begins."""
        return [self.subscribe(channel, position) for channel, position in self.positions.items()]

    def receive(self, event: Event) -> list[Event]:
        """Take an event with a channel; return what to deliver of it."""
        channel, kind, name = event["channel"], event.get("type"), event.get("id")
        asked = self._asked.get(channel)
        if name is not None and not name.startswith(_ID):
            return [event]  # about a publication
        if name != asked and (asked is not None or name is not None):
            return []
        self._asked.pop(channel, None)
        if channel in self.positions:
            if kind in ("unsubscribed", "error") and event.get("position") is None:
                del self.positions[channel]
            else:
                place = event.get("to") if kind == "gap" else event.get("position")
                self.positions[channel] = place or self.positions[channel]
        return [event]
