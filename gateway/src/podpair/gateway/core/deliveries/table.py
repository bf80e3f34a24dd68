"""All subscriptions, as the compacted topic has them, and whom a record of the results topic concerns.

Invariant: the topic alone makes the table: gateways that have read equally far have the same one.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator

from podpair.gateway.core.deliveries.events import DeliveryEvent
from podpair.gateway.core.deliveries.receipts import RECEIPT, Receipts
from podpair.gateway.core.deliveries.subscriptions import InvalidSubscription, Subscription, decode_subscription
from podpair.gateway.core.session_ids import USER, user_key


class SubscriptionTable:
    """The subscriptions by id, and by the keys of records."""

    def __init__(self) -> None:
        self._by_id: dict[str, Subscription] = {}
        self._by_key: dict[str, set[str]] = {}
        self._absent: Counter[str] = Counter()  # subscriptions for those who are away, by session
        self.receipts = Receipts()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_id.values())

    def get(self, subscription_id: str) -> Subscription | None:
        """Return a subscription."""
        return self._by_id.get(subscription_id)

    def apply(self, key: bytes | None, value: bytes | None) -> bool:
        """Take over a record; without a value it removes the subscription. Return False for one that can't be read."""
        name = (key or b"").decode(errors="replace")
        if key is not None and key.startswith(RECEIPT):
            return self.receipts.apply(name.removeprefix(RECEIPT.decode()), value)
        if value is None:
            self._remove(name)
            return True
        try:
            found = decode_subscription(value)
        except InvalidSubscription:
            return False
        if found.id != name:
            return False
        self._remove(name)
        self._by_id[name] = found
        if found.when == "absent":
            self._absent[found.target] += 1
        for record_key in _keys(found):
            self._by_key.setdefault(record_key, set()).add(name)
        return True

    def _remove(self, name: str) -> None:
        found = self._by_id.pop(name, None)
        if found is not None and found.when == "absent":
            self._absent[found.target] -= 1
            if not self._absent[found.target]:
                del self._absent[found.target]
        for record_key in _keys(found) if found is not None else ():
            names = self._by_key[record_key]
            names.discard(name)
            if not names:
                del self._by_key[record_key]

    def clear(self) -> None:
        """Forget everything: the topic is read anew."""
        self._by_id.clear()
        self._by_key.clear()
        self._absent.clear()
        self.receipts.clear()

    @property
    def away(self) -> Collection[str]:
        """The sessions that have a subscription for when they are away."""
        return self._absent.keys()

    def concerned(self, key: str) -> bool:
        """Return whether somebody subscribed to records with this key, whatever they are."""
        return bool(self._by_key) and (key in self._by_key or subject_part(key) in self._by_key)

    def matches(self, event: DeliveryEvent) -> list[Subscription]:
        """Return the subscriptions that an event is for, in the order of their ids."""
        part = subject_part(event.key)
        names = self._by_key.get(event.key, set()) | (self._by_key.get(part, set()) if part is not None else set())
        return [found for name in sorted(names) if _wants(found := self._by_id[name], event)]

    def owned_by(self, owner: str, now: int) -> list[Subscription]:
        """Return what a subject has subscribed. now: Unix milliseconds."""
        return [found for found in self._by_id.values() if found.owner == owner and found.expires_at > now]

    def expired(self, now: int) -> Iterator[str]:
        """Yield the ids of those that have ended. now: Unix milliseconds."""
        return (found.id for found in self._by_id.values() if found.expires_at <= now)


def _wants(subscription: Subscription, event: DeliveryEvent) -> bool:
    if event.name not in subscription.events or not subscription.created_at <= event.time < subscription.expires_at:
        return False
    return not subscription.models or not event.model or event.model in subscription.models


def _keys(subscription: Subscription) -> list[str]:
    if subscription.scope == "session":
        return [subscription.target]
    # As `subject_part` finds them: of the user's own key, and of sessions' ids in both of their forms.
    digest = hashlib.sha256(subscription.target.encode()).hexdigest()
    short = user_key(subscription.target).removeprefix(USER.decode())
    return sorted({f"subject {short}", f"subject ~{digest}"})


def subject_part(key: str) -> str | None:
    """Return by which name the subject of a key is found here: of a session that a claim named, or of a user."""
    user = USER.decode()
    part = key.removeprefix(user) if key.startswith(user) else key.partition("/")[0] if "/" in key else ""
    return f"subject {part}" if part else None
