"""Jobs: requests whose answers are fetched later, perhaps by another process.

`submit` asks through Kafka and is done once the request is there; what it returns is all that is needed to follow the job with
`attach`, from anywhere and as often as one likes, for as long as the results topic keeps records and the resume token is good
(`sessions.resume_seconds`, a day by default). A job has a session of its own, since one connection at a time holds a session.
"""

import base64
import binascii
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypedDict, Unpack, cast

import aiohttp
import msgspec

from podpair.client.calls import Call
from podpair.client.connector import connect
from podpair.client.errors import Lost
from podpair.client.events import Event, Gap
from podpair.client.options import JobOptions, frame_members
from podpair.client.runs import Run
from podpair.client.schedule import Backoff
from podpair.client.session import Session
from podpair.client.transport import Token

_VERSION = 1


class _Reference(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a job's reference says, as JSON in URL-safe base64."""

    version: int
    id: str
    session: str
    resume: str
    position: str


class ConnectOptions(TypedDict, total=False):
    """Keyword arguments of `submit` and `attach` that say how to connect; `connect` describes them."""

    token: Token
    backoff: Backoff
    heartbeat: float
    open_timeout: float
    on_event: Callable[[Event], None]
    on_gap: Callable[[Gap], None]
    on_state: Callable[[str], None]
    http: aiohttp.ClientSession


class SubmitOptions(JobOptions, ConnectOptions, total=False):
    """Keyword arguments of `submit` and `attach`."""


class Job(Run):
    """A request that was submitted, as `attach` finds it: it has all that a `Run` has. Leaving it does not end it."""

    def __init__(self, session: Session, call: Call, reference: str) -> None:
        super().__init__(session, call)
        self.reference = reference
        """What `attach` finds it with."""


async def submit(url: str | Sequence[str], model: str, data: Any = None, **options: Unpack[SubmitOptions]) -> str:
    """Ask a model through Kafka, and return as soon as the request is safe there.

    Args:
        url: The gateway's address, or several, as for `connect`.
        model: The model's name.
        data: As for `Session.infer`.
        **options: What else is to be said of the request (`JobOptions`), and how to connect (`ConnectOptions`).

    Returns:
        The job's reference, a text of letters, digits, `-` and `_` to be kept. With a token of the same subject it gives access
        to the job's session.

    Raises what `connect` and `Session.infer` raise. If it fails as `Lost` the job may run all the same; if the awaiting task is
    cancelled the job is too, as far as a gateway can be reached within five seconds.

    Examples:
        >>> reference = await client.submit(url, "summarize", text, token=get_token, stream=True)
        >>> async with client.attach(url, reference, token=get_token) as job:
        ...     result = await job.result()
    """
    said, how = _split(options)
    job_id = said["id"] = said.get("id") or f"j-{uuid.uuid4().hex[:12]}"
    async with connect(url, **how) as session:
        await session.enqueue(model, data, **said)
        # Of the session that has it: another one than at first, where that could not be resumed.
        reference = _Reference(_VERSION, str(job_id), session.session, session.resume or "", session.began or "")
    return base64.urlsafe_b64encode(msgspec.json.encode(reference)).rstrip(b"=").decode()


@asynccontextmanager
async def attach(
    url: str | Sequence[str],
    reference: str,
    model: str | None = None,
    data: Any = None,
    **options: Unpack[SubmitOptions],
) -> AsyncIterator[Job]:
    """Follow a job that was submitted before, here or elsewhere: `async with` it.

    Whoever else follows the same job at that time loses it (TakenOver).

    Whether the job's answer was among events that can not be had any more (a gap) nobody knows. It is reported as `Lost` then,
    unless you pass once more what `submit` was given: then the request is repeated with the same id. If the job has not ended it
    **may run twice**; one answer arrives.

    Args:
        url: The gateway's address, or several: any of the same service.
        reference: What `submit` returned.
        model: The model that was asked, if the request may be repeated after a gap.
        data: As it was submitted, if the request may be repeated.
        **options: How to connect (`ConnectOptions`), with a token of the same subject; and with `model` what else was said of
            the request (`JobOptions`). The id is the reference's, and a repetition has no deadline.

    Raises:
        ValueError: It is no reference of a job.
        Lost: The gateway does not know the job's session any more.
        Unauthorized: The reference is too old, or another subject's.

    It also raises what `connect` raises.
    """
    said = _read(reference)
    request, how = _split(options)
    body = None if model is None else frame_members(model, data, {**request, "route": "queue"}, None)
    async with connect(url, resume=said.resume or None, position=said.position or None, **how) as session:
        # Nothing has been read behind the welcome until this task waits.
        call = session.adopt(said.id, body)
        if session.session != said.session:
            raise Lost(f"the gateway has another session: it does not know {said.session!r} any more", id=said.id)
        yield Job(session, call, reference)


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], ConnectOptions]:
    """Return what is said of the request, and how to connect."""
    said = {name: value for name, value in options.items() if name in JobOptions.__annotations__}
    return said, cast("ConnectOptions", {name: value for name, value in options.items() if name not in said})


def _read(reference: str) -> _Reference:
    try:
        whole = base64.b64decode(reference + "=" * (-len(reference) % 4), altchars=b"-_", validate=True)
        members = msgspec.json.decode(whole, type=list[Any])
        later = bool(members) and isinstance(members[0], int) and members[0] > _VERSION
        found = None if later else msgspec.convert(members, _Reference)
    except (binascii.Error, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        found, later = None, False
    if later:
        raise ValueError("this reference of a job was made by a newer podpair-client")
    if found is None or found.version != _VERSION:
        raise ValueError("this is no reference of a job: it is what `submit` has returned")
    return found
