"""Settings of channels, which many sessions may subscribe to, and of presence."""

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.fields import Count, PositiveSeconds, Section, TopicName
from podpair.common.lists import Listed, Texts

CHANNEL_NAME = r"[A-Za-z0-9_][A-Za-z0-9._:@-]{0,199}"
"""What a channel may be called: without a slash, so that its key is no session's (core/channels.py)."""


class ChannelRule(Section):
    """What tokens that have a claim may do with channels. All rules that fit a token add up."""

    claim: Annotated[str, Field(min_length=1)] = "sub"
    """The claim that the token must have: `sub`, which every token has, is everybody."""
    value: str | None = None
    """The claim's value, or a member of it if it is a list; unset: any value."""
    subscribe: Texts = ()
    """Channels that may be subscribed to, as patterns of file names; `{sub}` stands for the token's claim `sub`, and so for
    any other claim that is a text: `user.{sub}.*`, `{tenant}.news`."""
    publish: Texts = ()
    """Channels that may be published to, in the same way."""


class Channels(Section):
    """Channels: a record with the key `channel:<name>` reaches all sessions that subscribe to it (docs/channels.md)."""

    enabled: bool = False
    """Let sessions subscribe. The same on every gateway."""
    rules: Annotated[tuple[ChannelRule, ...], Listed] = ()
    """Who may subscribe to what, and publish; empty: nobody."""
    automatic: Texts = ()
    """Channels that each session of podpair.v1 and server-sent events is subscribed to without asking, such as `all`."""
    per_session: Count = 32
    """Channels that a session may be subscribed to at a time."""
    publishes_per_second: Annotated[float, Field(gt=0)] = 10
    """What a session, or a subject over HTTP at this gateway, may publish, over all channels; four times as many at once."""

    @field_validator("automatic")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if re.fullmatch(CHANNEL_NAME, name) is None:
                raise ValueError(f"{name!r} is no channel's name: letters, digits and . _ : @ -, 200 at most")
        return value

    @model_validator(mode="after")
    def _room(self) -> Self:
        if len(self.automatic) > self.per_session:
            raise ValueError("automatic names more channels than per_session allows")
        return self


class PresenceRule(Section):
    """Whose presence tokens that have a claim may see. All rules that fit a token add up."""

    claim: Annotated[str, Field(min_length=1)] = "sub"
    """The claim that the token must have: `sub`, which every token has, is everybody."""
    value: str | None = None
    """The claim's value, or a member of it if it is a list; unset: any value."""
    subjects: Texts = ("{sub}",)
    """Subjects whose sessions may be seen, as patterns of file names; `{sub}` stands for the token's claim `sub`, and so for
    any other claim that is a text."""


class Presence(Section):
    """Presence: which sessions of a subject are connected, anywhere in the fleet (docs/channels.md)."""

    enabled: bool = False
    """Tell of this gateway's sessions, and read of those of others. The same on every gateway."""
    topic: TopicName = "podpair.presence"
    """The compacted topic with one record a session that is connected, and one a gateway."""
    replication: Count | None = None
    """Copies of that topic if it is created here; unset is the broker's default."""
    rules: Annotated[tuple[PresenceRule, ...], Listed] = ()
    """Who may see whom; empty: nobody."""
    heartbeat_seconds: PositiveSeconds = 5
    """How often a gateway says that it is alive: one record, however many sessions it has."""
    lease_seconds: PositiveSeconds = 16
    """After so long without such a record a gateway's sessions count as gone."""
    coalesce_seconds: PositiveSeconds = 0.5
    """How long the word that a session has come or gone may wait: what comes and goes within it costs no record."""
    watches: Count = 32
    """Subjects that a session may watch at a time."""

    @model_validator(mode="after")
    def _lease(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds is shorter than two heartbeat_seconds: living gateways would count as gone")
        return self
