"""How much a partition's workflows may have."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there may be."""

    instances: int
    remember_seconds: float
    record_bytes: int
    result_bytes: int
