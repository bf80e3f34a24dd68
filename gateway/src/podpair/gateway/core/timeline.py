"""The timeline of a request or a session, from Kafka: where it was queued, who has it, how it ended, what to do.

Invariant: nothing is guessed. What is in no topic (a direct request, the gateway that a client is connected to) is said to
be in none.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from podpair.gateway.core.dead_letters import parse_dead_letter
from podpair.gateway.core.partitioners import Cause
from podpair.gateway.core.records import CANCEL, ERROR, PARTIAL, RESULT, TAKEOVER

Log = Literal["requests", "results", "dead", "workflows"]
_LISTED = 20  # requests of a session that are listed
_LONGEST = 300  # characters of a message
_YEAR_9999 = 253_402_300_800.0  # its end, in Unix seconds


class TimelineRecord(NamedTuple):
    """A record about the request or session."""

    log: Log
    topic: str
    partition: int
    offset: int
    time: float  # Unix seconds, as the record says
    key: bytes | None
    headers: Mapping[str, bytes]
    value: bytes
    home: int | None = None  # the partition that its key means, if that is another one

    @property
    def misplaced(self) -> bool:
        """Whether nobody reads it where it is."""
        return self.home is not None or (self.log == "results" and self.key is None)

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
        """The session's id; of a result, its key."""
        key, subject = (self.key or b"").decode(errors="replace"), self.header("ce_subject")
        return key or subject if self.log == "results" else subject or key

    @property
    def ends(self) -> bool:
        return self.log == "results" and not self.misplaced and self.headers.get("ce_type") in (RESULT, ERROR)


class PartitionProgress(NamedTuple):
    """A partition of the requests topic, and the group's progress in it."""

    committed: int  # the offset of the first request that is not finished
    finished: Collection[int]  # those behind it that are
    end: int
    owner: str | None  # the gateway whose it is

    def done(self, offset: int) -> bool:
        return offset < self.committed or offset in self.finished


def records_about(what: str, seen: Iterable[TimelineRecord]) -> list[TimelineRecord]:
    """Return the records about a request or session with that id."""
    return [record for record in seen if what in (record.request, record.session) or record.key == what.encode()]


def request_timeline(
    request: str, session: str, seen: Sequence[TimelineRecord], shares: Mapping[int, PartitionProgress], home: int
) -> list[str]:
    """Describe a request's way, a line a step."""
    lines = [f"request {request}  session {session} (home partition {home})"]
    steps = [(record.time, _step(record)) for record in seen if record.request == request and record.session == session]
    lines += [f"  {_at(time)}  {text}" for time, text in sorted(steps, key=lambda step: step[0])]
    return lines + [f"  {line}" for line in _standing(request, session, seen, shares)]


def session_timeline(
    session: str, seen: Sequence[TimelineRecord], shares: Mapping[int, PartitionProgress], home: str
) -> list[str]:
    """Describe what a session has open, and what was last written for it. `home` says where its results are."""
    mine = [record for record in seen if record.session == session]
    lines = [f"session {session} ({home})"]
    taken = [record for record in mine if record.headers.get("ce_type") == TAKEOVER]
    results = [r for r in mine if r.log == "results" and not r.misplaced and r.headers.get("ce_type") != TAKEOVER]
    if results:
        last = max(results, key=lambda record: record.offset)
        lines.append(f"  results   {len(results)} records, the last at {_at(last.time)}: {_step(last)}")
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


def misplaced_report(seen: Sequence[TimelineRecord], cause: Callable[[TimelineRecord], Cause]) -> list[str]:
    """Describe which of these records are where nobody reads them, and why: a line for each record, and one for each cause."""
    misplaced = [record for record in seen if record.misplaced]
    lines = [f"  misplaced  {_misplacement(record)}" for record in misplaced[:_LISTED]]
    if len(misplaced) > _LISTED:
        lines.append(f"  misplaced  … and {len(misplaced) - _LISTED} more")
    causes = dict.fromkeys(cause(record) for record in misplaced if record.key is not None)
    lines += [f"  likely cause at the producer: {found.text}; {found.remedy} (docs/producers.md)" for found in causes]
    return lines


def _misplacement(record: TimelineRecord) -> str:
    by = f" by {source}" if (source := record.header("ce_source")) else ""
    if record.key is None:
        return f"{record.place}{by} has no key, and so is nobody's: the key has to be the session's id"
    key = record.key.decode(errors="replace")
    return f"{record.place}{by}: its key {key} means {record.topic}[{record.home}], so nobody is given it"


def _step(record: TimelineRecord) -> str:
    """Describe a record as a step."""
    kind, by = record.headers.get("ce_type"), record.header("ce_source")
    if record.log == "requests" and kind == CANCEL:
        return f"cancelled  by its client, through gateway {by}"
    if record.log == "requests":
        return (
            f"queued     at {record.place} by gateway {by}, model {record.header('model') or record.header('ce_model')}"
        )
    if record.log == "dead":
        letter = parse_dead_letter(record.value, list(record.headers.items()))
        step = f"given up   after {letter.attempts} attempts by gateway {letter.by}, kept at {record.place}: {letter.reason}"
        return step[:_LONGEST]
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


def _standing(
    request: str, session: str, seen: Sequence[TimelineRecord], shares: Mapping[int, PartitionProgress]
) -> list[str]:
    """Describe where the request is now, and what would help. Never empty."""
    mine = [record for record in seen if record.request == request and record.session == session]
    ended = [record for record in mine if record.ends]
    dead = [record for record in mine if record.log == "dead"]
    queued = [r for r in mine if r.log == "requests" and r.headers.get("ce_type") != CANCEL]
    # One that was put back by a replay is newer than its end.
    waiting = [r for r in queued if r.partition in shares and not shares[r.partition].done(r.offset)]
    if waiting:
        return _waiting(waiting[-1], shares[waiting[-1].partition])
    answered = max((r.offset for r in ended if r.headers.get("ce_type") == RESULT), default=-1)
    given_up = max((r.offset for r in ended if r.headers.get("ce_type") != RESULT), default=-1)
    if dead and answered <= given_up:  # else a replay has brought an answer since
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


def _waiting(record: TimelineRecord, share: PartitionProgress) -> list[str]:
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
    """Format a record's own time, which may be whatever its producer's clock said."""
    if not 0.0 <= time < _YEAR_9999:
        return "(no time)"
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
