"""Whose presence a token may see (`presence.rules`)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from podpair.common.gateway_config.channels import PresenceRule
from podpair.gateway.core.claim_patterns import compile_patterns
from podpair.gateway.core.quotas import counted_value


def visible_subjects(rules: Iterable[PresenceRule], claims: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what the subjects match that a token with these claims may see; None: nobody."""
    fitting = (rule for rule in rules if counted_value(rule.value, claims.get(rule.claim)) is not None)
    return compile_patterns([one for rule in fitting for one in rule.subjects], claims)
