"""Subscriptions: what one says, which are taken, and how they are kept as records of a compacted topic.

Invariant: nothing that is shown of a subscription holds its secret, or a URL that is one.
"""

import secrets
from typing import Any, Literal, NamedTuple

import msgspec

from podpair.common.gateway_config.deliveries import DeliveryKind
from podpair.gateway.core.deliveries.email import MailTemplate
from podpair.gateway.core.deliveries.web_push import PushKeys, PushOptions

Kind = DeliveryKind
EventName = Literal["result", "error", "push"]
Scope = Literal["session", "subject"]
When = Literal["always", "absent"]
_RESPONSE_SECONDS = 1800.0  # that Slack takes messages to a response_url
_MOST_MODELS = 50
_SHORTEST_TTL = 60.0


class InvalidSubscription(ValueError):
    """What is wrong with a subscription; never repeats its secret or its URL."""


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Who gets which events of a session, or of all of a subject's."""

    id: str
    kind: Kind
    url: str
    """Where to; of e-mail `mailto:` and the address."""
    scope: Scope
    target: str
    """The session's id, or the subject."""
    owner: str
    """The subject that made it; empty: an operator did."""
    created_at: int
    """Unix milliseconds; events from before are not delivered."""
    expires_at: int
    """Unix milliseconds."""
    events: tuple[EventName, ...] = ("result", "error", "push")
    models: tuple[str, ...] = ()
    """Models whose results are delivered; empty: those of all."""
    ordered: bool = False
    secret: str = ""
    """Signs webhooks; as the receiver has it, `whsec_` and base64."""
    blocks: Any = None
    """The template of Slack's blocks; None: podpair's."""
    in_channel: bool = False
    """Of a response_url: everybody in the channel sees the message."""
    email: MailTemplate | None = None
    """What e-mail says; None: podpair's."""
    keys: PushKeys | None = None
    """The browser's, of Web Push."""
    push: PushOptions = PushOptions()
    when: When = "always"
    """`absent`: only what the session's client has not received."""

    def shown(self) -> dict[str, Any]:
        """Return what its owner, and operators, may see."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        del found["secret"], found["keys"], found["target"], found["owner"]
        if self.kind != "web_push":
            del found["push"]
        if self.kind == "webhook":
            found["url"] = self.url.partition("?")[0]
        elif self.kind != "email":
            found["url"] = "(hidden)"  # whoever has it may post there
        return {name: value for name, value in found.items() if value is not None}


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks for."""

    url: str = ""
    kind: Kind = "webhook"
    scope: Scope = "session"
    events: tuple[EventName, ...] = ("result", "error", "push")
    models: tuple[str, ...] = ()
    ordered: bool = False
    secret: str = ""
    blocks: Any = None
    in_channel: bool = False
    email: MailTemplate | None = None
    keys: PushKeys | None = None
    push: PushOptions | None = None
    when: When = "always"
    ttl_seconds: float | None = None


class Target(NamedTuple):
    """Whose events are subscribed, and by whom."""

    scope: Scope
    key: str  # the session's id, or the subject
    owner: str


_wanted = msgspec.json.Decoder(Wanted)
_decoder = msgspec.json.Decoder(Subscription)


def decode_wanted(body: bytes) -> Wanted:
    """Read what a client asks for. Raises InvalidSubscription."""
    try:
        return _wanted.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSubscription(str(error)) from None


def make_subscription(wanted: Wanted, url: str, target: Target, max_ttl: float, now: float) -> Subscription:
    """Check what is wanted besides its destination, and return the subscription to `url`. Raises InvalidSubscription.

    max_ttl: seconds. now: Unix seconds.
    """
    if not wanted.events:
        raise InvalidSubscription("events: name at least one of result, error and push")
    if len(wanted.models) > _MOST_MODELS or any(not 0 < len(model) <= 256 for model in wanted.models):
        raise InvalidSubscription(f"models: {_MOST_MODELS} names of 1 to 256 characters at most")
    if wanted.when == "absent" and (wanted.ordered or target.scope != "session"):
        raise InvalidSubscription("when: absent is for the results of one session, and not ordered")
    longest = min(max_ttl, _RESPONSE_SECONDS) if wanted.kind == "slack_response" else max_ttl
    ttl = longest if wanted.ttl_seconds is None else wanted.ttl_seconds
    if not min(_SHORTEST_TTL, longest) <= ttl <= longest:
        raise InvalidSubscription(f"ttl_seconds: {min(_SHORTEST_TTL, longest):g} to {longest:g}")
    return Subscription(
        id=f"sub_{secrets.token_hex(12)}", kind=wanted.kind, url=url, scope=target.scope, target=target.key,
        owner=target.owner, created_at=int(now * 1000), expires_at=int((now + ttl) * 1000),
        events=wanted.events, models=wanted.models, ordered=wanted.ordered, secret=wanted.secret,
        blocks=wanted.blocks, in_channel=wanted.in_channel, email=wanted.email, keys=wanted.keys,
        push=wanted.push or PushOptions(), when=wanted.when,
    )  # fmt: skip


def encode_subscription(subscription: Subscription) -> bytes:
    """Encode the value of its record, whose key is its id."""
    return msgspec.json.encode(subscription)


def decode_subscription(value: bytes) -> Subscription:
    """Read a record. Raises InvalidSubscription."""
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSubscription(str(error)) from None
