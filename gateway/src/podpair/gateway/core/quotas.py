"""What a token allows: how many sessions and requests, of which models, by which route, and who goes first.

A rule counts together all tokens that have the same value of a claim: by `sub` each user has a budget of its own, by a claim
such as `tenant` all of a tenant's users share one. Every rule that fits a token applies.

Invariant: what is refused is refused at once, says which limit it was, and when to come again if that helps.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from podpair.gateway.core.lanes import Priority
from podpair.gateway.core.protocol import Code, Fault, RouteName

Limit = Literal["connects", "sessions", "requests_per_second", "in_flight", "models", "routes", "deadline"]

_SHARES: dict[Priority, float] = {"low": 0.5, "normal": 1.0, "high": 1.25}
_LONGEST = 256  # characters of a claim's value; of a longer one its digest is kept
_IDLE = 10_000  # accounts above which those that count nothing are dropped


class Limited(Fault):
    """A limit has been reached."""

    def __init__(self, limit: Limit, message: str, retry_after: float) -> None:
        super().__init__(Code.OVERLOADED, message, retry_after_ms=max(1, round(retry_after * 1000)))
        self.limit = limit


class Forbidden(Fault):
    """The token does not allow it, now or later."""

    def __init__(self, limit: Limit, message: str) -> None:
        super().__init__(Code.FORBIDDEN, message)
        self.limit = limit


class Rule(NamedTuple):
    """One rule; None is no limit, an empty tuple is any."""

    claim: str
    value: str | None = None  # only tokens whose claim is that, or holds it; None: any that have the claim
    sessions: int | None = None  # connected at a time
    requests_per_second: float | None = None
    burst: int | None = None  # requests at once after a pause; None: those of one second
    in_flight: int | None = None
    models: tuple[str, ...] = ()  # patterns, as of file names
    routes: tuple[RouteName, ...] = ()
    priority: Priority | None = None


class Bucket:
    """A token bucket: `rate` a second, `burst` at once. Time is given, in seconds of any clock."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._since = now

    def acquire(self, now: float) -> float:
        """Take a token. Return 0, or the seconds until one is available."""
        self._fill(now)
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate

    def full(self, now: float) -> bool:
        """Return whether the bucket has been unused for long enough to be forgotten."""
        self._fill(now)
        return self._left >= self._burst

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + max(0.0, now - self._since) * self._rate)
        self._since = now


class Account:
    """What is counted under one rule for one value of its claim."""

    __slots__ = ("bucket", "in_flight", "rule", "sessions", "who")

    def __init__(self, rule: Rule, value: str, now: float) -> None:
        self.rule = rule
        self.who = f"{rule.claim} {value!r}"[:100]
        self.sessions: set[str] = set()  # that are connected, by id
        self.in_flight = 0  # requests that are open, however they were asked
        rate = rule.requests_per_second
        self.bucket = Bucket(rate, max(1.0, rule.burst or rate), now) if rate is not None else None

    def admit(self, now: float) -> None:
        """Raise Limited if one more request is too much."""
        limit = self.rule.in_flight
        if limit is not None and self.in_flight >= limit:
            raise Limited("in_flight", f"{limit} requests of {self.who} are in flight", 0.1)
        if self.bucket is not None and (wait := self.bucket.acquire(now)):
            raise Limited(
                "requests_per_second", f"{self.who} may ask {self.rule.requests_per_second:g} times a second", wait
            )

    def idle(self, now: float) -> bool:
        """Return whether the account can be forgotten."""
        return not self.sessions and not self.in_flight and (self.bucket is None or self.bucket.full(now))


class Grant:
    """What one token allows: the accounts that its rules count under."""

    __slots__ = ("_accounts", "_models", "_routes", "priority")

    def __init__(self, accounts: Sequence[Account]) -> None:
        rules = [account.rule for account in accounts]
        self._accounts = accounts
        self._models = [rule.models for rule in rules if rule.models]
        self._routes = [rule.routes for rule in rules if rule.routes]
        self.priority: Priority = next((rule.priority for rule in rules if rule.priority), "normal")

    def connect(self, session: str) -> None:
        """Raise Limited if one more session is too much; a connected session is not one more."""
        for account in self._accounts:
            limit = account.rule.sessions
            if limit is not None and session not in account.sessions and len(account.sessions) >= limit:
                raise Limited("sessions", f"{limit} sessions of {account.who} are connected", 5.0)

    def enter(self, session: str) -> None:
        """Count a session as connected."""
        for account in self._accounts:
            account.sessions.add(session)

    def leave(self, session: str) -> None:
        """Stop counting a session as connected."""
        for account in self._accounts:
            account.sessions.discard(session)

    def acquire(self) -> None:
        """Count a request as open."""
        for account in self._accounts:
            account.in_flight += 1

    def release(self) -> None:
        """Stop counting a request as open."""
        for account in self._accounts:
            account.in_flight -= 1

    def allow(self, model: str, route: RouteName) -> RouteName:
        """Return the route to take; for `auto`, one that is allowed. Raises Forbidden."""
        for models in self._models:
            if not any(fnmatchcase(model, pattern) for pattern in models):
                raise Forbidden("models", f"this token does not allow model {model!r}")
        for routes in self._routes:
            if route in routes or "auto" in routes:
                continue
            if route != "auto":
                raise Forbidden("routes", f"this token does not allow route {route!r}")
            route = routes[0]
        return route

    def admit(self, model: str, route: RouteName, now: float) -> RouteName:
        """Admit one more request, and return its route. Raises Forbidden or Limited."""
        allowed = self.allow(model, route)
        for account in self._accounts:
            account.admit(now)
        return allowed

    def room(self, places: int) -> int:
        """Return how many of `places` requests of this priority may fill: low ones leave half, high ones find more."""
        return math.ceil(places * _SHARES[self.priority])


class Quotas:
    """All accounts under some rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._accounts: dict[tuple[int, str], Account] = {}

    def grant(self, claims: Mapping[str, Any], now: float) -> Grant | None:
        """Return what a token with these claims allows; None if no rule concerns it."""
        accounts = []
        for index, rule in enumerate(self._rules):
            value = counted_value(rule.value, claims.get(rule.claim))
            if value is not None:
                accounts.append(self._account(index, value, now))
        return Grant(accounts) if accounts else None

    def _account(self, index: int, value: str, now: float) -> Account:
        found = self._accounts.get((index, value))
        if found is None:
            if len(self._accounts) >= _IDLE:
                self._accounts = {key: kept for key, kept in self._accounts.items() if not kept.idle(now)}
            found = self._accounts[index, value] = Account(self._rules[index], value, now)
        return found

    def __len__(self) -> int:
        return len(self._accounts)


def counted_value(wanted: str | None, claim: Any) -> str | None:
    """Return the value that a token is counted under; None if a rule for the `wanted` value (None: any) is not for it. A list is
    a set of roles, or the like.
    """
    if claim is None:
        return None
    values = [_text(item) for item in claim] if isinstance(claim, list) else [_text(claim)]
    if wanted is not None:
        return wanted if wanted in values else None
    value = ",".join(sorted(values))
    if len(value) <= _LONGEST:
        return value
    return f"sha256:{hashlib.sha256(value.encode(errors='surrogatepass')).hexdigest()}"


def _text(item: Any) -> str:
    """Return a claim's value as text, of whatever type it is."""
    try:
        return str(item)
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        return f"({type(item).__name__})"
