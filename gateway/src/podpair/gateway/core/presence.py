"""Which sessions of a subject are connected, anywhere in the fleet, as the presence topic tells it.

A record with the key `session:<gateway>/<session>` says that a session is connected to a gateway, until its tombstone; one with
the key `gateway:<gateway>` that the gateway lives. A gateway is one process: its name and a mark of its start.

Invariant: a session is present as long as one living gateway has it; `join` and `leave` alternate for each session. A gateway
that is not heard of for a lease has none, and has them again once it is heard of.
"""

from typing import Literal, NamedTuple

import msgspec

_SESSION, _GATEWAY = b"session:", b"gateway:"
_LIMIT = 1_000_000  # sessions that are remembered
_ROOM = 0.9  # of them: so few that those which were dropped may be read again
_FORGOTTEN = 3  # leases after which the records of a silent gateway are removed
_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True):
    """The value of a session's record: where it is connected, and since when (Unix seconds)."""

    subject: str
    session: str
    gateway: str
    since: float


class PresenceChange(NamedTuple):
    """A session of a subject has come or gone."""

    kind: Literal["join", "leave"]
    subject: str
    session: str


class Record(NamedTuple):
    """A record of the topic; age: seconds since it was written, as far as it is known to be old."""

    key: bytes | None
    value: bytes | None
    age: float


def session_key(gateway: str, session: str) -> bytes:
    """Return the key of a session's record."""
    return _SESSION + f"{gateway}/{session}".encode()


def gateway_key(gateway: str) -> bytes:
    """Return the key of a gateway's record."""
    return _GATEWAY + gateway.encode()


def encode_entry(entry: Entry) -> bytes:
    """Encode the value of a session's record."""
    return _encode(entry)


class PresenceTable:
    """What the topic says. lease: seconds that a gateway lives without being heard of. Time is given, in seconds of any clock."""

    def __init__(self, lease: float, most: int = _LIMIT) -> None:
        self._lease = lease
        self._most = most
        self._entries: dict[bytes, Entry] = {}
        self._by_subject: dict[str, set[bytes]] = {}
        self._by_gateway: dict[str, set[bytes]] = {}
        self._heard: dict[str, float] = {}  # by gateway, also of those that are silent
        self._alive: set[str] = set()
        self._present: dict[tuple[str, str], int] = {}  # living gateways that have it, by subject and session
        self.dropped = 0  # records that there was no room for: what they said is not known until all is read anew

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def gateways(self) -> int:
        """The number of gateways that live."""
        return len(self._alive)

    @property
    def first_gateway(self) -> str | None:
        """Return the living gateway whose name comes first: one that all agree on."""
        return min(self._alive, default=None)

    @property
    def has_room_again(self) -> bool:
        """Whether records were dropped, and would not be now."""
        return self.dropped > 0 and len(self._entries) < _ROOM * self._most

    def changes_to(self, newer: "PresenceTable") -> list[PresenceChange]:
        """Return what has changed for who knew this table and is to know another one."""
        gone = [PresenceChange("leave", *one) for one in self._present if one not in newer._present]
        return gone + [PresenceChange("join", *one) for one in newer._present if one not in self._present]

    def apply(self, record: Record, now: float) -> list[PresenceChange]:
        """Take a record; return what changes by it. Raises ValueError if it can't be read."""
        key = record.key or b""
        if key.startswith(_GATEWAY):
            return self._apply_gateway(key.removeprefix(_GATEWAY).decode(), record, now)
        if not key.startswith(_SESSION):
            raise ValueError("its key is neither a session's nor a gateway's")
        if record.value is None:
            return self._remove(key)
        return self._add(key, msgspec.json.decode(record.value, type=Entry))

    def _apply_gateway(self, gateway: str, record: Record, now: float) -> list[PresenceChange]:
        if record.value is None:
            self._heard.pop(gateway, None)
            return self._lose(gateway)
        self._heard[gateway] = max(self._heard.get(gateway, now - record.age), now - record.age)
        if gateway in self._alive or now - self._heard[gateway] > self._lease:
            return []
        self._alive.add(gateway)
        return [change for key in self._by_gateway.get(gateway, ()) for change in self._count(self._entries[key], 1)]

    def _lose(self, gateway: str) -> list[PresenceChange]:
        if gateway not in self._alive:
            return []
        self._alive.discard(gateway)
        return [change for key in self._by_gateway.get(gateway, ()) for change in self._count(self._entries[key], -1)]

    def _count(self, entry: Entry, change: int) -> list[PresenceChange]:
        """Count a living gateway that has a session more, or less."""
        about = (entry.subject, entry.session)
        before = self._present.get(about, 0)
        count = self._present[about] = before + change
        if not count:
            del self._present[about]
            return [PresenceChange("leave", *about)]
        return [] if before else [PresenceChange("join", *about)]

    def _add(self, key: bytes, entry: Entry) -> list[PresenceChange]:
        if key not in self._entries and len(self._entries) >= self._most:
            self.dropped += 1
            return []
        known = self._entries.get(key)
        moved = known is not None and known.subject != entry.subject
        changes = self._remove(key) if moved else []
        self._entries[key] = entry
        self._by_subject.setdefault(entry.subject, set()).add(key)
        self._by_gateway.setdefault(entry.gateway, set()).add(key)
        if entry.gateway in self._alive and (known is None or moved):
            changes += self._count(entry, 1)
        return changes

    def _remove(self, key: bytes) -> list[PresenceChange]:
        entry = self._entries.pop(key, None)
        if entry is None:
            return []
        for index, name in ((self._by_subject, entry.subject), (self._by_gateway, entry.gateway)):
            index[name].discard(key)
            if not index[name]:
                del index[name]
        return self._count(entry, -1) if entry.gateway in self._alive else []

    def expire(self, now: float) -> list[PresenceChange]:
        """Take gateways that are silent for dead; return whose sessions are gone."""
        silent = [one for one in self._alive if now - self._heard.get(one, -self._lease) > self._lease]
        return [change for gateway in silent for change in self._lose(gateway)]

    def forgotten(self, now: float) -> list[bytes]:
        """Return the keys of records to remove: those of gateways that are silent for long."""
        limit = _FORGOTTEN * self._lease
        for gateway in self._by_gateway.keys() - self._heard.keys():
            self._heard[gateway] = now  # it is not known since when
        found = [one for one, heard in self._heard.items() if one not in self._alive and now - heard > limit]
        return [key for one in found for key in (*self._by_gateway.get(one, ()), gateway_key(one))]

    def sessions(self, subject: str) -> list[Entry]:
        """Return the sessions of a subject that are present, the oldest first: one entry for each."""
        found = (self._entries[key] for key in self._by_subject.get(subject, ()))
        present = sorted((one for one in found if one.gateway in self._alive), key=lambda one: one.since)
        return list({one.session: one for one in present}.values())
