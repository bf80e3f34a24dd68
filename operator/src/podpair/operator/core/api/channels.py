"""`spec.gateway.channels` and `spec.gateway.presence`."""

from typing import Annotated, ClassVar

from pydantic import Field

from podpair.common.gateway_config.channels import CHANNEL_NAME
from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Count, Duration, seconds

_Short = Annotated[str, Field(min_length=1, max_length=256)]
_Patterns = Annotated[tuple[_Short, ...], Field(max_length=64)]


class ChannelRule(Section):
    """What tokens with a claim may do with channels. All rules that match a token add up."""

    claim: _Short = "sub"
    """The claim that a token must have: `sub`, which every token has, is everybody."""
    value: _Short | None = None
    """Only tokens whose claim is this, or is a list that holds it. Default: any value."""
    subscribe: _Patterns = ()
    """Channels that may be subscribed to, as patterns (`room.*`); `{sub}` stands for the token's claim `sub`, and so for any
    other claim that is a text."""
    publish: _Patterns = ()
    """Channels that may be published to, in the same way."""


class Channels(Section):
    """Channels that sessions may subscribe to (docs/channels.md)."""

    rules: Annotated[tuple[ChannelRule, ...], Field(max_length=32)] = ()
    """Who may subscribe to what, and publish; none: nobody."""
    automatic: Annotated[
        tuple[Annotated[str, Field(pattern=f"^{CHANNEL_NAME}$")], ...],
        Field(max_length=16),
    ] = ()
    """Channels that each session is subscribed to without asking, such as `all`."""
    per_session: Annotated[int, Field(ge=16, le=10_000)] = 32
    """Channels that a session may be subscribed to at a time."""
    publishes_per_second: Count = 10
    """What a session may publish, over all channels; four times as many at once."""


class PresenceRule(Section):
    """Whose presence tokens with a claim may see. All rules that match a token add up."""

    claim: _Short = "sub"
    """The claim that a token must have: `sub`, which every token has, is everybody."""
    value: _Short | None = None
    """Only tokens whose claim is this, or is a list that holds it. Default: any value."""
    subjects: _Patterns = ("{sub}",)
    """Subjects whose sessions may be seen, as patterns; `{sub}` stands for the token's claim `sub`."""


class Presence(Section):
    """Which sessions of a subject are connected, at whichever pods (docs/channels.md). With it there is a topic,
    `<requests topic>.presence`, which is compacted.
    """

    RULES: ClassVar = (
        Rule(
            "duration(self.lease) >= duration('3s') && duration(self.lease) <= duration('1h')",
            "lease ({lease}) must be between 3s and 1h",
            lambda presence: seconds("3s") <= seconds(presence.lease) <= seconds("1h"),
        ),
    )
    rules: Annotated[tuple[PresenceRule, ...], Field(max_length=32)] = ()
    """Who may see whom; none: nobody."""
    lease: Duration = "16s"
    """After so long without a word from a pod, which comes three times as often, its sessions count as gone."""
    watches: Count = 32
    """Subjects that a session may watch at a time."""
