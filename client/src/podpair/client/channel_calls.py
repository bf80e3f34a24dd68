"""The channels of a session: subscriptions, and what waits for the gateway's word about them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from podpair.client.calls import Inbox
from podpair.client.errors import Invalid, Lost, PodpairError, SessionClosed, Unreachable, error_from
from podpair.client.events import Event, Gap, PresentSession, Publication
from podpair.client.protocol import SessionState
from podpair.client.transport import encode_frame

_QUESTION = "q-"
_PUBLICATION = "p-"  # what their ids begin with


class Subscription:
    """A channel that is subscribed to: iterate over its publications, in order, until it is closed.

    Invariant: it holds a bounded number of them; what comes too fast for its reader is declared as a gap with reason `buffer`.
    """

    def __init__(self, channel: str, limit: int, leave: Callable[[], Awaitable[None]]) -> None:
        self.channel = channel
        """The channel's name."""
        self.inbox: Inbox[Publication] = Inbox(limit)
        self._leave = leave

    def put(self, event: Event) -> Gap | None:
        """Take a `publication`. Returns the gap that it made if too many wait."""
        return self.inbox.put(Publication.from_event(event), channel=self.channel)

    async def close(self) -> None:
        """End the subscription."""
        await self._leave()

    async def __aiter__(self) -> AsyncIterator[Publication]:
        async for publication in self.inbox:
            yield publication


class Channels:
    """Subscribes and publishes. wake: has the frames sent. limit: publications that wait for their reader."""

    def __init__(self, protocol: SessionState, wake: Callable[[], None], limit: int) -> None:
        self._protocol = protocol
        self._state = protocol.channels
        self._wake = wake
        self._limit = limit
        self._subscriptions: dict[str, Subscription] = {}
        #: What waits for an answer: a publication by its id, a subscription by its channel.
        self._answers: dict[str, asyncio.Future[Event]] = {}
        self._ended: PodpairError | None = None

    async def subscribe(self, channel: str, position: str | None) -> Subscription:
        """Subscribe to a channel; `Session.subscribe` describes it."""
        _check(channel)
        if channel in self._subscriptions:
            raise ValueError(f"channel {channel!r} is already subscribed to")
        made = Subscription(channel, self._limit, lambda: self._leave(channel))
        self._subscriptions[channel] = made
        try:
            await self._answer(_waiting(channel), self._state.subscribe(channel, position))
        except BaseException:
            await self._leave(channel)
            raise
        return made

    async def _leave(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            subscription.inbox.end(None)
            if channel in self._state.positions:
                self._protocol.control(self._state.unsubscribe(channel))
                self._wake()

    async def publish(self, channel: str, data: Any) -> str:
        """Publish to a channel; `Session.publish` describes it."""
        if self._ended is None and not self._protocol.welcomed:
            raise Lost("not connected now: nothing was published")
        _check(channel)
        name = f"{_PUBLICATION}{uuid.uuid4().hex[:12]}"
        raw = msgspec.Raw(encode_frame(data, None))  # as it is now: the caller may change it
        frame = {"type": "publish", "id": name, "channel": channel, "data": raw}
        encode_frame(frame, self._protocol.limits.get("message_bytes"))
        return str((await self._answer(name, frame))["position"])

    async def presence(self, subject: str) -> list[PresentSession]:
        """Ask which sessions of a subject are connected; `Session.presence` describes it."""
        if self._ended is None and not self._protocol.welcomed:
            raise Unreachable("not connected now")
        _check(subject, 1024)
        name = f"{_QUESTION}{uuid.uuid4().hex[:12]}"
        answer = await self._answer(name, {"type": "presence", "id": name, "subject": subject})
        return [PresentSession(one["session"], one["since"]) for one in answer["sessions"]]

    def deliver_presence(self, event: Event) -> None:
        """Take an event with a subject."""
        answer = self._answers.get(str(event.get("id")))
        if answer is not None and not answer.done():
            if event["type"] == "error":
                answer.set_exception(error_from(event))
            else:
                answer.set_result(event)

    async def _answer(self, name: str, frame: Event) -> Event:
        """Send a frame, and wait for the gateway's answer to it."""
        if self._ended is not None:
            raise self._ended
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._answers[name] = answer
        self._protocol.control(frame)
        self._wake()
        try:
            return await answer
        finally:
            del self._answers[name]

    def deliver(self, channel: str, event: Event) -> Gap | None:
        """Take an event with a channel. Returns the gap to declare, if there is one."""
        kind, name, subscription = event["type"], event.get("id"), self._subscriptions.get(channel)
        if kind == "publication":
            return None if subscription is None else subscription.put(event)
        if kind == "gap":
            return Gap.from_event(event)
        answer = self._answers.get(name if name and name.startswith(_PUBLICATION) else _waiting(channel))
        if answer is not None:
            if not answer.done() and kind == "error":
                answer.set_exception(error_from(event))
            elif not answer.done():
                answer.set_result(event)
        elif name and name.startswith(_PUBLICATION):
            pass  # whoever published does not wait any more
        elif kind in ("unsubscribed", "error") and event.get("position") is None and subscription is not None:
            del self._subscriptions[channel]
            subscription.inbox.end(
                error_from({"message": "the subscription ended", "code": event.get("reason")} | event)
            )
        return None

    def disconnected(self) -> None:
        """Lose publications whose answer went with the connection; channels are subscribed to again."""
        for name, answer in self._answers.items():
            if name.startswith(_QUESTION) and not answer.done():
                answer.set_exception(Unreachable("the connection broke before the answer"))
            if name.startswith(_PUBLICATION) and not answer.done():
                answer.set_exception(Lost("the connection broke before the answer: it may be published", id=name))

    def end(self, error: PodpairError | None) -> None:
        """End everything: the session has ended, with `error` if it was not closed by its user."""
        self._ended = error or SessionClosed("the session is closed")
        for subscription in self._subscriptions.values():
            subscription.inbox.end(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._ended)


def _check(text: str, most: int = 200) -> None:
    """Raise Invalid for what the gateway can't answer, because it does not read a frame with it."""
    if not 0 < len(text) <= most:
        raise Invalid(f"{text[:64]!r}… has {len(text)} characters, not 1 to {most}")


def _waiting(channel: str) -> str:
    return f"subscribe {channel}"
