"""Settings of deliveries to those who aren't connected."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.fields import Count, Port, PositiveSeconds, Section, TopicName
from podpair.common.lists import Listed, Texts

DeliveryKind = Literal["webhook", "slack", "slack_response", "email", "web_push"]
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAILBOX = re.compile(
    rf"(?=.{{3,254}}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+)*@(?:{_LABEL}\.)*{_LABEL}"
)
_LONGEST_LOCAL = 64  # characters before the @ (RFC 5321)


def is_mailbox(text: str) -> bool:
    """Return whether it is one plain address, as `ann@example.com`: ASCII, no quotes, no name, no list."""
    return bool(_MAILBOX.fullmatch(text)) and text.index("@") <= _LONGEST_LOCAL


class DeliveryRule(Section):
    """Who may subscribe, by a claim of the token. The first rule that fits a token decides; one that none fits may not."""

    claim: Annotated[str, Field(min_length=1)] = "sub"
    """The claim that the token must have: `sub`, which every token has, is everybody."""
    value: str | None = None
    """The claim's value, or a member of it if it is a list; unset: any value."""
    kinds: Annotated[tuple[DeliveryKind, ...], Listed] = ()
    """Kinds of subscriptions that may be made; empty: all."""
    subscriptions: Count = 10
    """Subscriptions that each subject may have at a time."""


class Email(Section):
    """The SMTP server that e-mail is handed to."""

    host: str | None = None
    """Name or address of the server; unset: nothing is sent by e-mail."""
    port: Port = 587
    """Its port: 587 as a rule, 465 with `security: tls`."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` goes over to TLS, or fails; `tls` begins with it; `none` is for a server on localhost."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authorities that may sign the server's; unset: the system's."""
    username: str | None = None
    """Logs in as this user; unset: the server asks for no login."""
    password_file: Path | None = None
    """The file with its password; it is read at each connection."""
    sender: str | None = None
    """The address that e-mail comes from, and that bounces go to."""
    sender_name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = "podpair"
    """The name that is shown with it."""
    claim: Annotated[str, Field(min_length=1)] = "email"
    """The claim with the subscriber's own address, the only one that the API subscribes."""
    verified_claim: str = "email_verified"
    """The claim that has to be true beside it; empty: the issuer only says addresses that it has verified."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together: set both, or neither")
        if self.username is not None and self.security == "none":
            raise ValueError("security is none: the password would be sent unencrypted")
        if self.host is not None and self.sender is None:
            raise ValueError("sender is missing: e-mail needs the address that it comes from")
        if self.sender is not None and not is_mailbox(self.sender):
            raise ValueError(f"sender: {self.sender!r} is no address such as podpair@example.com")
        return self


class WebPush(Section):
    """Notifications by the push service of a user's browser (RFC 8030, with VAPID)."""

    private_key_file: Path | None = None
    """The key (P-256, PEM) that browsers' subscriptions are bound to: of all gateways the same; unset: no Web Push."""
    contact: str | None = None
    """Whom a push service may write to: mailto:… or https://…; some services refuse requests without it."""
    ttl_seconds: Annotated[int, Field(ge=0, le=2_419_200)] = 86_400
    """How long a push service keeps a notification for a browser that is away, if the subscription doesn't say."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.private_key_file is not None and self.contact is None:
            raise ValueError("contact is missing: push services want mailto:… or https://…")
        if self.contact is not None and not re.fullmatch(r"(mailto:[!-~]+@[!-~]+|https://[!-~]+)", self.contact):
            raise ValueError(f"contact: {self.contact!r} is neither mailto:… nor https://…")
        return self


class Deliveries(Section):
    """Webhooks, messages and notifications with the results of sessions whose clients aren't connected (docs/deliveries.md)."""

    enabled: bool = False
    """Deliver. The same on every gateway of a group."""
    topic: Annotated[TopicName, Field(max_length=230)] = "podpair.deliveries"
    """What the names of the four topics begin with: `.subscriptions`, `.retry`, `.ordered` and `.dlq` follow."""
    replication: Count | None = None
    """Copies of these topics if they are created here; unset is the broker's default."""
    rules: Annotated[tuple[DeliveryRule, ...], Listed] = ()
    """Who may subscribe by the API; empty: nobody. Operators use `podpair-gateway subscriptions`."""
    timeout_seconds: PositiveSeconds = 15
    """How long an attempt may take, from the look-up of the host to the end of its answer."""
    in_flight: Count = 256
    """Deliveries of new records that this gateway has in hand at a time; more wait in Kafka."""
    per_host: Count = 8
    """Attempts at a time to one host; some wait here, the others on the topic for retries."""
    retry_seconds: Annotated[tuple[PositiveSeconds, ...], Listed] = (5, 60, 300, 1800, 7200, 18_000)
    """How long a delivery waits after each failed attempt, give or take a tenth; the last holds for all that follow. As many
    partitions has the topic for retries."""
    max_age_seconds: PositiveSeconds = 86_400
    """After so long a delivery is given up: it becomes a dead letter."""
    dead_letter_retention_seconds: PositiveSeconds = 604_800
    """How long dead letters are kept, if their topic is created here."""
    circuit_failures: Count = 5
    """After so many failures in a row that are a host's own (no connection, no answer, 5xx) it is left alone for a while."""
    circuit_seconds: PositiveSeconds = 10
    """How long that is, for the first time; it doubles, up to five minutes, until an attempt succeeds."""
    ordered_backlog: Count = 1000
    """Deliveries that wait behind one that fails, where order is asked for; what comes then is a dead letter."""
    absent_seconds: PositiveSeconds = 10
    """How long after an event it is decided whether its client has received it, for subscriptions with `"when": "absent"`. What
    is less than 3 may come too early for the gateways to know."""
    max_ttl_seconds: PositiveSeconds = 2_592_000
    """How long a subscription that was made by the API lasts at most."""
    slack_hosts: Texts = ("hooks.slack.com", "hooks.slack-gov.com")
    """Hosts that Slack's messages may be sent to; others take them, too (Mattermost, say)."""
    email: Email = Field(default_factory=Email)
    web_push: WebPush = Field(default_factory=WebPush)
    allow_http: bool = False
    """Deliver to http:// addresses, too."""
    ports: Annotated[tuple[Port, ...], Listed] = (443,)
    """Ports that may be delivered to; empty: any."""
    allowed_networks: Texts = ()
    """Networks that may be delivered to although they aren't public, such as 10.1.0.0/16."""

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network, strict=False)
            except ValueError as error:
                raise ValueError(f"{network!r} is no network such as 10.1.0.0/16: {error}") from None
        return value

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if not self.retry_seconds:
            raise ValueError("retry_seconds is empty: name one wait at least")
        if list(self.retry_seconds) != sorted(self.retry_seconds):
            raise ValueError("retry_seconds must not become shorter")
        return self

    @property
    def subscriptions_topic(self) -> str:
        """The compacted topic with the subscriptions."""
        return f"{self.topic}.subscriptions"

    @property
    def retry_topic(self) -> str:
        """The topic where deliveries wait for their next attempt."""
        return f"{self.topic}.retry"

    @property
    def ordered_topic(self) -> str:
        """The topic of deliveries whose order is kept."""
        return f"{self.topic}.ordered"

    @property
    def dead_letter_topic(self) -> str:
        """The topic of deliveries that were given up."""
        return f"{self.topic}.dlq"
