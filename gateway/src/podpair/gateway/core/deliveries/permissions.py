"""Who may subscribe by the API (`deliveries.rules`)."""

from collections.abc import Iterable, Mapping
from typing import Any

from podpair.common.gateway_config.deliveries import DeliveryRule
from podpair.gateway.core.quotas import counted_value


def rule_for(rules: Iterable[DeliveryRule], claims: Mapping[str, Any]) -> DeliveryRule | None:
    """Return the first rule that a token with these claims fits; None: it may not subscribe."""
    return next((rule for rule in rules if counted_value(rule.value, claims.get(rule.claim)) is not None), None)


def allows_kind(rule: DeliveryRule, kind: str) -> bool:
    """Return whether the rule is for subscriptions of this kind."""
    return not rule.kinds or kind in rule.kinds
