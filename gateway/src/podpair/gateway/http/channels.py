"""Channels, as clients use them: frames, what the address of a connection names, and POST /v1/channels/{channel}."""

import msgspec
from aiohttp import web

from podpair.gateway.core.channels import ChannelAccess
from podpair.gateway.core.protocol import ChannelMessage, Code, Fault, Publish, Subscribe, Unsubscribe, event
from podpair.gateway.core.records import control_event, is_json
from podpair.gateway.http.admission import Admission, Refused, Visitor
from podpair.gateway.http.errors import refusal
from podpair.gateway.sessions.channels import Channels
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session
from podpair.gateway.tasks import Tasks

_STATUS = {Code.INVALID: 400, Code.FORBIDDEN: 403, Code.OVERLOADED: 429}
_UNDER_WAY = 32  # publications of one session that may wait for the broker


class ChannelFrames:
    """Handles what clients send of channels over their connections."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._under_way: dict[str, int] = {}  # publications, by session

    def begin(self, visitor: Visitor, session: Session, connection: Connection) -> None:
        """Subscribe a connection to what its address names."""
        channels = visitor.components.channels
        if channels is not None:
            channels.subscriptions.begin(session, connection, visitor.subscribe)
        elif visitor.subscribe:
            _tell(session, _disabled(), visitor.subscribe[0], None)

    def handle(
        self, channels: Channels | None, session: Session, connection: Connection, message: ChannelMessage
    ) -> None:
        """Handle a frame."""
        name = message.channel
        asked = None if isinstance(message, Unsubscribe) else message.id
        if channels is None:
            _tell(session, _disabled(), name, asked)
        elif isinstance(message, Subscribe):
            channels.subscriptions.subscribe(session, connection, message)
        elif isinstance(message, Publish):
            self._publish(channels, session, message)
        elif channels.subscriptions.unsubscribe(session, name):
            session.send(control_event("unsubscribed", event("unsubscribed", channel=name)))
        else:
            _tell(session, Fault(Code.NOT_FOUND, f"channel {name} is not subscribed to"), name, None)

    def _publish(self, channels: Channels, session: Session, message: Publish) -> None:
        under_way = self._under_way.get(session.id, 0)
        if under_way >= _UNDER_WAY:
            fault = Fault(Code.OVERLOADED, f"{_UNDER_WAY} publications wait for the broker", retry_after_ms=1000)
            _tell(session, fault, message.channel, message.id)
            return
        self._under_way[session.id] = under_way + 1
        self._tasks.spawn(self._write(channels, session, message))

    async def _write(self, channels: Channels, session: Session, message: Publish) -> None:
        connection = session.connection
        try:
            written = await channels.publisher.publish(
                session.id, session.channel_access, message.channel, bytes(message.data)
            )
        except Fault as fault:
            if session.connection is connection:
                _tell(session, fault, message.channel, message.id)
        else:
            if session.connection is connection:
                payload = event("published", id=message.id, channel=message.channel, position=str(written))
                session.send(control_event("published", payload))
        finally:
            left = self._under_way[session.id] - 1
            if left:
                self._under_way[session.id] = left
            else:
                del self._under_way[session.id]


class ChannelsEdge:
    """Publishes over HTTP."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def publish(self, request: web.Request) -> web.Response:
        """Handle POST /v1/channels/{channel}, whose body is the data: 201 once the broker has it."""
        channel = request.match_info["channel"]
        try:
            channels = self._admission.components().channels
            identity = await self._admission.identity(request)
            if channels is None:
                return refusal(404, Code.NOT_FOUND, str(_disabled()))
            data = await request.read()
            if not is_json(data):
                return refusal(400, Code.INVALID, "the body is not JSON")
            access: ChannelAccess = channels.subscriptions.access(identity.claims)
            written = await channels.publisher.publish(f"subject {identity.subject}", access, channel, data)
        except Refused as refused:
            return refused.response
        except Fault as fault:
            wait = None if fault.retry_after_ms is None else fault.retry_after_ms / 1000
            return refusal(_STATUS.get(fault.code, 503), fault.code, fault.message, retry_after=wait)
        body = msgspec.json.encode({"channel": channel, "position": str(written)})
        return web.Response(body=body, status=201, content_type="application/json")


def _disabled() -> Fault:
    return Fault(Code.NOT_FOUND, "there are no channels here (channels.enabled)")


def _tell(session: Session, fault: Fault, channel: str, asked: str | None) -> None:
    """Send an `error` with the channel, which ends no request, whatever its id."""
    payload = event(
        "error", id=asked, channel=channel[:256], code=fault.code, message=fault.message,
        retry_after_ms=fault.retry_after_ms,
    )  # fmt: skip
    session.send(control_event("error", payload))
