"""Presence, as clients ask for it: frames of a WebSocket, and GET /v1/presence/{subject}."""

from typing import Any

import msgspec
from aiohttp import web

from podpair.gateway.core.presence import Entry
from podpair.gateway.core.presence_access import visible_subjects
from podpair.gateway.core.protocol import AskPresence, Code, Fault, event
from podpair.gateway.core.records import control_event
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.http.errors import refusal
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.presence import PresenceService
from podpair.gateway.sessions.session import Session


def answer_presence(
    presence: PresenceService | None, session: Session, connection: Connection, message: AskPresence
) -> None:
    """Answer a frame with who is there, and send what changes from then on if it asks to watch."""
    try:
        entries = _ask(presence, session, connection, message)
    except Fault as fault:
        payload = event(
            "error", id=message.id, subject=message.subject, code=fault.code, message=fault.message,
            retry_after_ms=fault.retry_after_ms,
        )  # fmt: skip
        session.send(control_event("error", payload))
        return
    payload = event("presence", id=message.id, subject=message.subject, sessions=_shown(entries))
    session.send(control_event("presence", payload))


def _ask(
    presence: PresenceService | None, session: Session, connection: Connection, message: AskPresence
) -> list[Entry]:
    subject = message.subject
    if presence is None:
        raise Fault(Code.NOT_FOUND, "presence is not known here (presence.enabled)")
    if session.sees is None or session.sees.match(subject) is None:
        raise Fault(Code.FORBIDDEN, f"this token may not see {subject[:64]!r} (presence.rules)")
    _check(presence)
    if message.watch is False:
        presence.unwatch(session, subject)
    elif message.watch and not presence.watch(session, connection, subject):
        raise Fault(Code.OVERLOADED, "as many subjects are watched as may be (presence.watches)")
    return presence.sessions(subject)


def _check(presence: PresenceService) -> None:
    if presence.trouble is not None:
        raise Fault(Code.OVERLOADED, "presence is not known yet: try again", retry_after_ms=1000)


def _shown(entries: list[Entry]) -> list[dict[str, Any]]:
    return [{"session": one.session, "since": one.since} for one in entries]


class PresenceEdge:
    """Answers queries over HTTP."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def handle(self, request: web.Request) -> web.Response:
        """Handle GET /v1/presence/{subject}."""
        subject = request.match_info["subject"]
        try:
            components = self._admission.components()
            identity = await self._admission.identity(request)
            presence = components.presence
            if presence is None:
                return refusal(404, Code.NOT_FOUND, "presence is not known here (presence.enabled)")
            seen = visible_subjects(presence.rules, identity.claims)
            if seen is None or seen.match(subject) is None:
                return refusal(403, Code.FORBIDDEN, "this token may not see that subject (presence.rules)")
            _check(presence)
        except Refused as refused:
            return refused.response
        except Fault as fault:
            return refusal(503, fault.code, fault.message, retry_after=1)
        body = msgspec.json.encode({"subject": subject, "sessions": _shown(presence.sessions(subject))})
        return web.Response(body=body, content_type="application/json")
