"""Channels: their names and keys, who may use them, and the events that their subscribers get.

The records of a channel have the key `channel:<name>`, and so a home on the results topic as those of a session have. A name has
no slash: so the key is the id of no session, which is minted or has one (`session_ids.py`).

Invariant: an event of a channel says nothing of its subscriber, so that one encoding of it serves all.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from podpair.common.gateway_config.channels import CHANNEL_NAME, ChannelRule
from podpair.gateway.core.claim_patterns import compile_patterns
from podpair.gateway.core.cloud_events import Headers
from podpair.gateway.core.protocol import Subscribe
from podpair.gateway.core.quotas import counted_value
from podpair.gateway.core.records import Event, Kind, MalformedEvent, event_of_record

CHANNEL = "channel:"
"""What the key of a channel's records begins with."""

_NAME = re.compile(CHANNEL_NAME)
_POSITION_MARK = "~"  # between a channel and a position in the address of a connection; in neither
_encode = msgspec.json.Encoder().encode
_PUSH, _ERROR = b'{"type":"push",', b'{"type":"error",'


class InvalidChannel(ValueError):
    """A text that no channel is called."""


def channel_key(name: str) -> str:
    """Return the key of a channel's records. Raises InvalidChannel."""
    if _NAME.fullmatch(name) is None:
        raise InvalidChannel(f"{name[:64]!r} is no channel's name: letters, digits and . _ : @ -, 200 at most")
    return CHANNEL + name


def parse_wanted(text: str) -> Subscribe:
    """Read what the address of a connection names, `<channel>` or `<channel>~<position>`, as the frame that says the same."""
    channel, mark, position = text.partition(_POSITION_MARK)
    return Subscribe(channel, position if mark else None)


class ChannelAccess:
    """What one token may do with channels."""

    __slots__ = ("_publish", "_subscribe")

    def __init__(self, rules: Iterable[ChannelRule], claims: Mapping[str, Any]) -> None:
        fitting = [rule for rule in rules if counted_value(rule.value, claims.get(rule.claim)) is not None]
        self._subscribe = compile_patterns([one for rule in fitting for one in rule.subscribe], claims)
        self._publish = compile_patterns([one for rule in fitting for one in rule.publish], claims)

    def may_subscribe(self, channel: str) -> bool:
        """Return whether the token may subscribe to the channel."""
        return self._subscribe is not None and self._subscribe.match(channel) is not None

    def may_publish(self, channel: str) -> bool:
        """Return whether the token may publish to the channel."""
        return self._publish is not None and self._publish.match(channel) is not None


def publication(channel: str, value: bytes | None, headers: Headers | None, offset: int, prefix: bytes) -> Event | None:
    """Convert a record of a channel to the event for its subscribers; None: a record that calls itself an answer is for nobody.

    prefix: the position up to the offset, `<epoch>.<partition>.`.
    """
    event = event_of_record(value, headers, offset, prefix)
    if event.kind is Kind.PUSH:
        payload = b'{"type":"publication","channel":%b,%b' % (_encode(channel), event.payload[len(_PUSH) :])
        return event._replace(name="publication", payload=payload)
    if event.kind is Kind.UNREADABLE:
        payload = b'{"type":"error","channel":%b,%b' % (_encode(channel), event.payload[len(_ERROR) :])
        return MalformedEvent(Kind.UNREADABLE, "error", None, payload, offset)
    return None


def unplaced_publication(channel: str, value: bytes | None, headers: Headers | None) -> Event | None:
    """Convert a record outside the channel's home partition to an event without a position."""
    event = publication(channel, value, headers, 0, b"")
    if event is None:
        return None
    members: dict[str, msgspec.Raw] = msgspec.json.decode(event.payload, type=dict[str, msgspec.Raw])
    del members["position"]
    return event._replace(payload=_encode(members), offset=-1)
