"""The conditions Reconciling and Stalled, by which kstatus (Helm's --wait, Flux, `kpt live`) judges a resource beside Ready.

One of them is True while the resource is not yet as specified: Reconciling if it gets there by itself, Stalled if somebody has to
do something first. Source: sigs.k8s.io/cli-utils/pkg/kstatus.
"""

from collections.abc import Sequence
from typing import NamedTuple

from podpair.operator.core.kafka_state import Reason
from podpair.operator.core.pod_diagnosis import Problem

RECONCILING, STALLED = "Reconciling", "Stalled"
_NEEDS_SOMEBODY = frozenset(
    {
        "CRDNotInstalled", "CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull", "FailedCreate",
        "InvalidImageName", "InvalidSpec", "NameConflict", "NotPermitted", "PodTemplateForbidden", "ProgressDeadlineExceeded",
        "QuotaExceeded", "Refused", Reason.AUTHENTICATION_FAILED, Reason.CLIENT_INVALID, Reason.CREDENTIALS_REFUSED,
        Reason.NOT_AUTHORIZED, Reason.REPARTITION_REFUSED, Reason.TOPIC_REFUSED, Reason.TOPIC_TOO_NARROW, "WeightsNotKept",
    }
)  # fmt: skip


class Progress(NamedTuple):
    """Why a resource is not yet as specified, if it isn't."""

    stalled: Problem | None
    reconciling: Problem | None


def progress(wrong: Sequence[Problem], *, awaited: Problem | None) -> Progress:
    """Decide between Stalled and Reconciling. `wrong`: problems; `awaited`: what else is pending, such as a rollout."""
    for one in wrong:
        if one.reason in _NEEDS_SOMEBODY:
            return Progress(one, None)
    return Progress(None, awaited or (wrong[0] if wrong else None))
