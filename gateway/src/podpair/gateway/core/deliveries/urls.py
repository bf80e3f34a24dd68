"""Which URLs may be subscribed: plain ones only, so that every reader of one sees the same host in it."""

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from podpair.gateway.core.deliveries.addresses import Network, why_refused

_LONGEST = 2048
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_PLAIN = re.compile(r"[!-~]+")  # printable ASCII without the space


class InvalidUrl(ValueError):
    """Nothing is delivered there; the message doesn't repeat the URL, which may hold a secret."""


class UrlRules(NamedTuple):
    """Which URLs are taken."""

    allow_http: bool = False
    ports: Collection[int] = (443,)
    allowed: Sequence[Network] = ()
    slack_hosts: Collection[str] = ("hooks.slack.com",)


def check_url(url: str, rules: UrlRules) -> str:
    """Return the host with its port, which deliveries are counted and limited by. Raises InvalidUrl."""
    if len(url) > _LONGEST or not _PLAIN.fullmatch(url) or "\\" in url or "#" in url:
        raise InvalidUrl(f"url: printable ASCII without spaces, \\ and #, {_LONGEST} characters at most")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidUrl("url: it can't be read") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and rules.allow_http):
        raise InvalidUrl("url: it has to begin with https://")
    if "@" in parts.netloc:
        raise InvalidUrl("url: a user or a password is not taken")
    port = port if port is not None else (443 if parts.scheme == "https" else 80)
    if port == 0 or (rules.ports and port not in rules.ports):
        raise InvalidUrl(f"url: port {port} is not delivered to (deliveries.ports)")
    return f"{_checked_host(parts.netloc, parts.hostname, rules)}:{port}"


def _checked_host(netloc: str, host: str | None, rules: UrlRules) -> str:
    if not host:
        raise InvalidUrl("url: it has no host")
    if netloc.startswith("["):
        refused = why_refused(host, rules.allowed)
        shown = f"[{host}]"
    elif _NAME.fullmatch(host) and len(host) <= 253:
        return host
    else:
        try:
            address = ip_address(host)  # four decimal numbers, without leading zeros
        except ValueError:
            raise InvalidUrl("url: the host is neither a full name nor an address in its usual form") from None
        refused, shown = why_refused(str(address), rules.allowed), host
    if refused is not None:
        raise InvalidUrl(f"url: nothing is delivered to {shown}: {refused}")
    return shown
