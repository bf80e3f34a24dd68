"""What a container requests and may use at most: the rules that the API server has for a container's resources.

Source: k8s.io/kubernetes/pkg/apis/core/validation, ValidateContainerResourceRequirements.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Quantity, to_decimal, without_nulls

Quantities = Annotated[dict[str, Quantity], Field(max_length=16), BeforeValidator(without_nulls)]

_DOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
# `requests.` in front is what a quota calls them; nothing of Kubernetes' own is counted so.
EXTENDED = rf"^{_DOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
_HUGE_PAGES = "^hugepages-[1-9][0-9]{0,3}[KMG]i$"
_PLAIN = "^(cpu|memory|ephemeral-storage)$"
_COUNT = "^[+]?[0-9]+(k|Ki|[MGTPE]i?)?$"
_RESOURCE = f"({_PLAIN})|({_HUGE_PAGES})|({EXTENDED})"


def _counted(name: str) -> bool:
    return "/" in name or name.startswith("hugepages-")


def _named(resources: "Resources") -> bool:
    return all(
        re.fullmatch(_RESOURCE, name) and not name.startswith("requests.")
        for name in {*resources.limits, *(resources.requests or {})}
    )


def _within(resources: "Resources") -> bool:
    limits = resources.limits
    return all(
        to_decimal(value) <= to_decimal(limits[name])
        for name, value in (resources.requests or {}).items()
        if name in limits
    )


def _whole(resources: "Resources") -> bool:
    values = [*resources.limits.items(), *(resources.requests or {}).items()]
    return all(not _counted(name) or re.fullmatch(_COUNT, value) for name, value in values)


def _pages(resources: "Resources") -> bool:
    values = [*resources.limits.items(), *(resources.requests or {}).items()]
    return all(
        not re.fullmatch(_HUGE_PAGES, name) or to_decimal(value) % to_decimal(name.removeprefix("hugepages-")) == 0
        for name, value in values
        if re.fullmatch(_COUNT, value)
    )


def _beside_pages(resources: "Resources") -> bool:
    names = {*resources.limits, *resources.asked}
    return bool(names & {"cpu", "memory"}) or not any(name.startswith("hugepages-") for name in names)


def _not_overcommitted(resources: "Resources") -> bool:
    limits = resources.limits
    return all(
        not _counted(name) or (name in limits and to_decimal(limits[name]) == to_decimal(value))
        for name, value in (resources.requests or {}).items()
    )


def _each(condition: str) -> str:
    """CEL: a condition on each name `k` and its value `m[k]`, of requests and of limits."""
    return " && ".join(
        f"(!has(self.{part}) || self.{part}.all(k, {condition.replace('m[k]', f'self.{part}[k]')}))"
        for part in ("requests", "limits")
    )


def _both(condition: str) -> str:
    """CEL: a condition on each name `k` that is in requests and limits."""
    return f"!has(self.requests) || self.requests.all(k, {condition})"


_COUNTED = "(k.contains('/') || k.startsWith('hugepages-'))"
_LIMITED = "has(self.limits) && k in self.limits"
_COMPARED = "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k])))"


class Resources(Section):
    """What a container requests and may use at most, as in a pod."""

    DEFAULT: ClassVar[Mapping[str, str]] = {}
    """Requests of who says none."""
    RULES: ClassVar = (
        Rule(
            _each(f"k.matches('{_RESOURCE}') && !k.startsWith('requests.')"),
            "a container has cpu, memory, ephemeral-storage, hugepages-SIZE and devices such as nvidia.com/gpu, nothing else",
            _named,
        ),
        Rule(
            _both(f"!({_LIMITED}) || {_COMPARED} <= 0"),
            "requests may not be more than limits",
            _within,
        ),
        Rule(
            _each(f"!{_COUNTED} || string(m[k]).matches('{_COUNT}')"),
            "huge pages and devices are counted in whole numbers",
            _whole,
        ),
        Rule(
            _each(
                f"!k.matches('{_HUGE_PAGES}') || !string(m[k]).matches('{_COUNT}') || "
                "quantity(string(m[k])).asInteger() % quantity(k.substring(10)).asInteger() == 0"
            ),
            "huge pages are requested in multiples of their size",
            _pages,
        ),
        Rule(
            "!has(self.requests) || 'cpu' in self.requests || 'memory' in self.requests || "
            "has(self.limits) && ('cpu' in self.limits || 'memory' in self.limits) || "
            "!(self.requests.exists(k, k.startsWith('hugepages-')) || "
            "has(self.limits) && self.limits.exists(k, k.startsWith('hugepages-')))",
            "huge pages need cpu or memory beside them: request that too",
            _beside_pages,
        ),
        Rule(
            _both(f"!{_COUNTED} || {_LIMITED} && {_COMPARED} == 0"),
            "huge pages and devices are requested by their limits: leave them out of requests, or say the same in both",
            _not_overcommitted,
        ),
    )
    requests: Quantities | None = None
    """Reserved for it by the scheduler."""
    limits: Quantities = Field(default_factory=dict)
    """What it may not exceed, and devices such as nvidia.com/gpu."""

    @property
    def asked(self) -> Mapping[str, str]:
        """What is requested by name; in a pod a limit without a request is the request too."""
        if self.requests is not None:
            return self.requests
        return {name: value for name, value in self.DEFAULT.items() if name not in self.limits}

    def is_requested(self, name: str) -> bool:
        """Return whether the pod requests some of a resource."""
        value = self.asked.get(name, self.limits.get(name))
        return value is not None and to_decimal(value) > 0


def requested_in_cel(half: str, name: str) -> str:
    """Return `is_requested` in CEL, for a half of the pair whose default requests it."""
    there, limits, none = f"{half}.resources.requests", f"{half}.resources.limits", "quantity('0')"
    more = f"quantity(string({{}}['{name}'])).compareTo({none}) > 0"
    return (
        f"(!has({half}.resources) || "
        f"(has({there}) && '{name}' in {there} ? {more.format(there)} : "
        f"has({limits}) && '{name}' in {limits} ? {more.format(limits)} : !has({there})))"
    )
