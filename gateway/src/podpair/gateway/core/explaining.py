"""What Kafka tells of a request or a session, put in order: where it was queued, who has it, how it ended, what to do.

Invariant: nothing is guessed. What stands in no topic (a direct request, the gateway that a client is connected to) is said to
stand in none.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from podpair.gateway.core.dead_letters import dead_letter_of
from podpair.gateway.core.records import CANCEL, ERROR, PARTIAL, RESULT, TAKEOVER

Log = Literal["requests", "results", "dead"]
_LISTED = 20  # requests of a session that are told one by one
_LONGEST = 300  # characters of a message
_YEAR_9999 = 253_402_300_800.0  # its end, in Unix seconds


class Seen(NamedTuple):
    """A record that is about it."""

    log: Log
    topic: str
    partition: int
    offset: int
    time: float  # Unix seconds, as the record says
    key: bytes | None
    headers: Mapping[str, bytes]
    value: bytes

    @property
    def place(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    def header(self, name: str) -> str:
        return self.headers.get(name, b"").decode(errors="replace")

    @property
    def request(self) -> str:
        return self.header("ce_id")

    @property
    def session(self) -> str:
        return self.header("ce_subject") or (self.key or b"").decode(errors="replace")

    @property
    def ends(self) -> bool:
        return self.log == "results" and self.headers.get("ce_type") in (RESULT, ERROR)


class Share(NamedTuple):
    """A partition of the requests topic, as the group stands to it."""

    committed: int  # the offset of the first request that is not finished
    finished: Collection[int]  # those behind it that are
    end: int
    owner: str | None  # the gateway whose it is

    def done(self, offset: int) -> bool:
        return offset < self.committed or offset in self.finished


def about(what: str, seen: Sequence[Seen]) -> list[Seen]:
    """The records about a request or session with that id."""
    return [record for record in seen if what in (record.request, record.session)]


def explain_request(
    request: str, session: str, seen: Sequence[Seen], shares: Mapping[int, Share], home: int
) -> list[str]:
    """A request's way, a line a step."""
    lines = [f"request {request}  session {session} (home partition {home})"]
    steps = [(record.time, _told(record)) for record in seen if record.request == request and record.session == session]
    lines += [f"  {_at(time)}  {text}" for time, text in sorted(steps, key=lambda step: step[0])]
    return lines + [f"  {line}" for line in _standing(request, session, seen, shares)]


def explain_session(session: str, seen: Sequence[Seen], shares: Mapping[int, Share], home: str) -> list[str]:
    """What a session has open, and what was last written for it. `home` says where its results are."""
    mine = [record for record in seen if record.session == session]
    lines = [f"session {session} ({home})"]
    taken = [record for record in mine if record.headers.get("ce_type") == TAKEOVER]
    results = [r for r in mine if r.log == "results" and r.headers.get("ce_type") != TAKEOVER]
    if results:
        last = max(results, key=lambda record: record.offset)
        lines.append(f"  results   {len(results)} records, the last at {_at(last.time)}: {_told(last)}")
    else:
        lines.append("  results   none in the time that was looked at (--since)")
    if taken:
        newest = max(taken, key=lambda record: record.offset)
        lines.append(
            f"  client    took the session over at {_at(newest.time)}, at gateway {newest.header('ce_source')}"
        )
    asked = [record for record in mine if record.log == "requests" and record.headers.get("ce_type") != CANCEL]
    if asked:
        newest = max(asked, key=lambda record: record.time)
        lines.append(
            f"  client    queued its last request at {_at(newest.time)} through gateway {newest.header('ce_source')}"
        )
    ended = {record.request for record in mine if record.ends}
    open_ids = list(dict.fromkeys(record.request for record in asked if record.request not in ended))
    lines.append(f"  queued    {len({record.request for record in asked})} requests, {len(open_ids)} without an answer")
    lines += [f"    {request}: {_standing(request, session, seen, shares)[0]}" for request in open_ids[:_LISTED]]
    if len(open_ids) > _LISTED:
        lines.append(f"    … and {len(open_ids) - _LISTED} more")
    return lines


def _told(record: Seen) -> str:
    """One record as a step."""
    kind, by = record.headers.get("ce_type"), record.header("ce_source")
    if record.log == "requests" and kind == CANCEL:
        return f"cancelled  by its client, through gateway {by}"
    if record.log == "requests":
        return f"queued     at {record.place} by gateway {by}, model {record.header('model')}"
    if record.log == "dead":
        letter = dead_letter_of(list(record.headers.items()))
        told = f"given up   after {letter.attempts} attempts by gateway {letter.by}, kept at {record.place}: {letter.reason}"
        return told[:_LONGEST]
    if kind == RESULT:
        return f"answered   at {record.place} by gateway {by}"
    if kind == ERROR:
        return f"failed     at {record.place} by gateway {by}: {_fault(record.value)}"
    if kind == PARTIAL:
        return f"partial    {record.header('seq')} at {record.place} by gateway {by}"
    if kind == TAKEOVER:
        return f"taken over at {record.place} by a connection at gateway {by}"
    return f"pushed     at {record.place}" + (f" by {by}" if by else "")


def _fault(value: bytes) -> str:
    try:
        found = msgspec.json.decode(value, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return "its value is not JSON"
    return f"{found.get('code')}: {found.get('message')}"[:_LONGEST]


def _standing(request: str, session: str, seen: Sequence[Seen], shares: Mapping[int, Share]) -> list[str]:
    """Where the request stands now, and what would help. Never empty."""
    mine = [record for record in seen if record.request == request and record.session == session]
    ended = [record for record in mine if record.ends]
    dead = [record for record in mine if record.log == "dead"]
    queued = [r for r in mine if r.log == "requests" and r.headers.get("ce_type") != CANCEL]
    # One that was put back by a replay is newer than its end.
    waiting = [r for r in queued if r.partition in shares and not shares[r.partition].done(r.offset)]
    if waiting:
        return _waiting(waiting[-1], shares[waiting[-1].partition])
    if dead:
        return [f"it was given up: put it back with: podpair-gateway replay --id {request}"]
    if ended:
        first = min(ended, key=lambda record: record.offset)
        more = f" ({len(ended)} copies: clients take the first)" if len(ended) > 1 else ""
        return [f"its answer is at {first.place}{more}; a client that resumes before that offset is given it"]
    if queued:
        return [
            "it was worked on to its end, and no answer is in the time that was looked at (--since), or retention took it"
        ]
    return [
        "it is not in the requests topic: asked on the direct route, or before the time that was looked at (--since)"
    ]


def _waiting(record: Seen, share: Share) -> list[str]:
    before = record.offset - share.committed
    where = f"{record.topic}[{record.partition}]"
    if share.owner is None:
        return [
            f"it waits, and no gateway of the group reads {where}: start one, or look at /readyz of those that run",
        ]
    place = "first in line" if before <= 0 else f"at most {before} before it"
    return [
        f"it waits or is worked on at gateway {share.owner} ({place}; {share.end - share.committed} open in {where})"
    ]


def _at(time: float) -> str:
    """A record's own time, which is whatever its producer's clock said."""
    if not 0.0 <= time < _YEAR_9999:
        return "(no time)"
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
