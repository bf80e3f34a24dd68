"""The inference requests that messages of clients ask for."""

import time

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.not_before import check_time
from podpair.gateway.core.protocol import Code, Fault, Infer, InferRow
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.sessions.session import Session


def check_later(message: Infer | InferRow, config: Config) -> bool:
    """Return whether a message asks for something later. Raises Fault(invalid) if that can't be."""
    if isinstance(message, InferRow) or message.delay_ms is None:
        return False
    if message.route == "direct":
        raise Fault(Code.INVALID, "a request with delay_ms goes through the queue, not the route direct")
    deadline = None if message.deadline_ms is None else message.deadline_ms / 1000
    check_time(message.delay_ms / 1000, deadline, config, 0.0)
    return True


def asked_by(session: Session, message: Infer | InferRow) -> InferenceRequest:
    """Return what a message asks for, which `check_later` has let pass."""
    now = time.time()
    deadline = now + message.deadline_ms / 1000 if message.deadline_ms is not None else None
    if isinstance(message, InferRow):
        return InferenceRequest(
            message.id, message.model, deadline=deadline, row=message.data, key=session.id, subject=session.subject
        )
    not_before = now + message.delay_ms / 1000 if message.delay_ms is not None else None
    return InferenceRequest(
        message.id, message.model, bytes(message.inputs), bytes(message.data), bytes(message.parameters), deadline,
        stream=message.stream, key=session.id, subject=session.subject, not_before=not_before,
    )  # fmt: skip
