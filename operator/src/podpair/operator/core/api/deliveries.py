"""`spec.deliveries`: results for those who aren't connected, by webhook, Slack, e-mail and Web Push."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podpair.operator.core.api.peers import Cidr
from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import HOST, SERVER_HOST, Count, Duration, Port, SecretKey, seconds

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LOCAL = "[A-Za-z0-9!#%&'*+/=?^_`{|}~-]{1,64}"
MAILBOX = f"^{_LOCAL}([.]{_LOCAL})*@({_LABEL}[.])*{_LABEL}$"
CONTACT = "^(mailto:[!-~]+@[!-~]+|https://[!-~]+)$"
ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
_Mailbox = Annotated[str, Field(pattern=MAILBOX, max_length=254)]
_Contact = Annotated[str, Field(pattern=CONTACT, max_length=1024)]
_SmtpHost = Annotated[str, Field(pattern=SERVER_HOST, max_length=253)]
_Short = Annotated[str, Field(min_length=1, max_length=253)]
_Kind = Literal["webhook", "slack", "slack_response", "email", "web_push"]
_LONGEST_TTL = "672h"


class SubscriptionRule(Section):
    """Who may subscribe, by a claim of the token. The first rule that fits a token decides; one that none fits may not."""

    claim: _Short = "sub"
    """The claim that the token must have: `sub`, which every token has, is everybody."""
    value: _Short | None = None
    """Only tokens whose claim is this, or is a list that holds it. Default: any value."""
    kinds: Annotated[tuple[_Kind, ...], Field(max_length=5)] = ()
    """Kinds of subscriptions that may be made; none: all."""
    subscriptions: Count = 10
    """Subscriptions that each subject may have at a time."""


class Login(Section):
    """User name and password for an SMTP server."""

    username: _Short
    """The user name."""
    password_ref: SecretKey
    """The key of a Secret with its password."""


class Email(Section):
    """The SMTP server that e-mail is handed to."""

    RULES: ClassVar = (
        Rule(
            "!has(self.login) || self.security != 'none'",
            "security is none: the password of login would be sent unencrypted",
            lambda email: email.login is None or email.security != "none",
        ),
    )
    host: _SmtpHost
    """Its name or address."""
    port: Port = 587
    """Its port: 587 as a rule, 465 with `security: tls`."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` goes over to TLS, or fails; `tls` begins with it; `none` is for a server that is reached by no network."""
    ca_ref: SecretKey | None = None
    """The certificate authority's certificate in PEM; default: those of the image."""
    login: Login | None = None
    """User name and password; default: the server asks for none."""
    sender: _Mailbox
    """The address that e-mail comes from, and that bounces go to."""
    sender_name: Annotated[str, Field(pattern=ONE_LINE, max_length=100)] = "podpair"
    """The name that is shown with it."""
    claim: _Short = "email"
    """The claim with the subscriber's own address, the only one that clients subscribe."""
    verified_claim: Annotated[str, Field(max_length=253)] = "email_verified"
    """The claim that has to be true beside it; empty: the issuer only says addresses that it has verified."""


class WebPush(Section):
    """Notifications by the push service of a user's browser."""

    RULES: ClassVar = (
        Rule(
            f"duration(self.ttl) <= duration('{_LONGEST_TTL}')",
            f"ttl ({{ttl}}) is more than {_LONGEST_TTL}, four weeks",
            lambda push: seconds(push.ttl) <= seconds(_LONGEST_TTL),
        ),
    )
    private_key_ref: SecretKey
    """The key of a Secret with the private key (P-256, PEM) that browsers' subscriptions are bound to."""
    contact: _Contact
    """Whom a push service may write to: mailto:… or https://…"""
    ttl: Duration = "24h"
    """How long a push service keeps a notification for a browser that is away, in whole seconds, if the subscription doesn't
    say."""


class Deliveries(Section):
    """Results, errors and pushes for those who aren't connected (docs/deliveries.md). With it there are four topics, whose
    names begin with `topic`: `.subscriptions`, which is compacted and has the secrets of webhooks, `.retry`, `.ordered` and
    `.dlq`.
    """

    RULES: ClassVar = (
        Rule(
            "!has(self.topic) || !self.topic.endsWith('.requests')",
            "topic ends as the requests topic is called where it has no name, whose dead letters have a name of theirs",
            lambda deliveries: not (deliveries.topic or "").endswith(".requests"),
        ),
    )
    topic: Annotated[str, Field(pattern="^[.]*[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=230)] | None = None
    """What the names of the topics begin with. Default: NAMESPACE.NAME.deliveries."""
    replication: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Copies of the topics; default: the broker's."""
    rules: Annotated[tuple[SubscriptionRule, ...], Field(max_length=32)] = ()
    """Who may subscribe by the API; none: nobody, only operators."""
    email: Email | None = None
    """The SMTP server; default: nothing is sent by e-mail."""
    web_push: WebPush | None = None
    """The key of Web Push; default: there is none."""
    timeout: Duration = "15s"
    """How long an attempt may take."""
    absent_after: Duration = "10s"
    """How long after an event it is decided whether its client has received it, for subscriptions with `when: absent`. What is
    less than 3s may come too early for the pods to know."""
    max_age: Duration = "24h"
    """After so long a delivery is given up, and kept as a dead letter."""
    max_ttl: Duration = "720h"
    """How long a subscription lasts at most that was made by the API."""
    dead_letter_retention: Duration = "168h"
    """How long dead letters are kept."""
    per_host: Count = 8
    """Attempts at a time of one pod to one host."""
    in_flight: Count = 256
    """Deliveries of new records that a pod has in hand at a time."""
    slack_hosts: Annotated[tuple[Annotated[str, Field(pattern=HOST, max_length=253)], ...], Field(max_length=16)] = (
        "hooks.slack.com",
        "hooks.slack-gov.com",
    )
    """Hosts that Slack's messages may be sent to."""
    allow_http: bool = False
    """Deliver to http:// addresses, too."""
    ports: Annotated[tuple[Port, ...], Field(max_length=16)] = (443,)
    """Ports that may be delivered to; none: any."""
    allowed_networks: Annotated[tuple[Cidr, ...], Field(max_length=64)] = ()
    """Networks that may be delivered to although they aren't public, such as 10.1.0.0/16."""
