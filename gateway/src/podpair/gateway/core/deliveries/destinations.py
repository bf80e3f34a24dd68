"""Where a subscription may lead to, by its kind: what each needs, and what it has no use for.

Invariants: e-mail goes to an address that its subscriber has proved to own, or that an operator named; a message of a fault
repeats neither a secret nor a URL.
"""

import base64
import binascii
from collections.abc import Callable
from typing import NamedTuple

from podpair.common.gateway_config.deliveries import is_mailbox
from podpair.gateway.core.deliveries.email import check_mail_template
from podpair.gateway.core.deliveries.slack import check_template
from podpair.gateway.core.deliveries.subscriptions import (
    InvalidSubscription,
    Subscription,
    Target,
    Wanted,
    make_subscription,
)
from podpair.gateway.core.deliveries.templates import InvalidTemplate
from podpair.gateway.core.deliveries.urls import InvalidUrl, UrlRules, check_url
from podpair.gateway.core.deliveries.web_push import InvalidPush, PushOptions, check_push

MAILTO = "mailto:"
_PREFIX = "whsec_"
_SHORTEST_SECRET, _LONGEST_SECRET = 24, 64  # bytes (Standard Webhooks)
# Members of a request that only these kinds have a use for.
_OF_KINDS = {
    "secret": ("webhook",),
    "blocks": ("slack", "slack_response"),
    "in_channel": ("slack_response",),
    "email": ("email",),
    "keys": ("web_push",),
    "push": ("web_push",),
}


class Terms(NamedTuple):
    """Under which a subscription is made."""

    urls: UrlRules
    max_ttl: float  # seconds
    now: float  # Unix seconds
    email: bool = False  # an SMTP server is set
    web_push: bool = False  # there is a key for it
    mailbox: str | None = None  # the address that the subscriber has proved to be its own
    any_mailbox: bool = False  # an operator subscribes


def subscription_of(wanted: Wanted, target: Target, terms: Terms) -> Subscription:
    """Check what is wanted, and return the subscription. Raises InvalidSubscription."""
    for name, kinds in _OF_KINDS.items():
        if getattr(wanted, name) not in (None, "", False) and wanted.kind not in kinds:
            raise InvalidSubscription(f"{name} is for kind {' and '.join(kinds)}")
    try:
        url = _CHECKS[wanted.kind](wanted, terms)
    except (InvalidUrl, InvalidTemplate, InvalidPush) as error:
        raise InvalidSubscription(str(error)) from None
    return make_subscription(wanted, url, target, terms.max_ttl, terms.now)


def _webhook(wanted: Wanted, terms: Terms) -> str:
    check_url(wanted.url, terms.urls)
    said = f"secret: whsec_ and the base64 of {_SHORTEST_SECRET} to {_LONGEST_SECRET} random bytes"
    if not wanted.secret.startswith(_PREFIX):
        raise InvalidSubscription(said)
    try:  # strictly: the library reads base64's URL-safe letters as nothing, and signs with another key
        key = base64.b64decode(wanted.secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSubscription(said) from None
    if not _SHORTEST_SECRET <= len(key) <= _LONGEST_SECRET:
        raise InvalidSubscription(said)
    return wanted.url


def _slack(wanted: Wanted, terms: Terms) -> str:
    host = check_url(wanted.url, terms.urls)
    if wanted.blocks is not None:
        check_template(wanted.blocks)
    if host.rpartition(":")[0] not in terms.urls.slack_hosts:
        raise InvalidSubscription(f"url: the host of Slack is {' or '.join(terms.urls.slack_hosts)}")
    return wanted.url


def _email(wanted: Wanted, terms: Terms) -> str:
    if not terms.email:
        raise InvalidSubscription("kind: nothing is sent by e-mail here (deliveries.email.host)")
    if wanted.email is not None:
        check_mail_template(wanted.email)
    asked = wanted.url.removeprefix(MAILTO) if wanted.url else terms.mailbox
    if asked is None:
        raise InvalidSubscription("kind: this token proves no e-mail address (deliveries.email.claim)")
    if not is_mailbox(asked) or (wanted.url and not wanted.url.startswith(MAILTO)):
        raise InvalidSubscription("url: mailto: and one plain address in ASCII")
    if asked != terms.mailbox and not terms.any_mailbox:
        raise InvalidSubscription("url: only the address that the token proves is subscribed (deliveries.email.claim)")
    return MAILTO + asked


def _web_push(wanted: Wanted, terms: Terms) -> str:
    if not terms.web_push:
        raise InvalidSubscription("kind: there is no Web Push here (deliveries.web_push.private_key_file)")
    check_url(wanted.url, terms.urls)
    if wanted.keys is None:
        raise InvalidSubscription("keys: p256dh and auth of the browser's subscription are missing")
    check_push(wanted.keys, wanted.push or PushOptions())
    return wanted.url


_CHECKS: dict[str, Callable[[Wanted, Terms], str]] = {
    "webhook": _webhook, "slack": _slack, "slack_response": _slack, "email": _email, "web_push": _web_push,
}  # fmt: skip
