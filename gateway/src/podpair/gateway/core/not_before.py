"""When a request may begin later, and how much later."""

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.protocol import Code, Fault


def check_time(not_before: float, deadline: float | None, config: Config, now: float) -> None:
    """Check the time at which a request is to begin. Times are in Unix seconds. Raises Fault(invalid)."""
    if not config.workflows.enabled:
        raise Fault(Code.INVALID, "no request is kept for later here (workflows.enabled)")
    longest = config.sessions.resume_seconds
    if not_before - now > longest:
        message = (
            f"it is to begin in {not_before - now:.0f} s; at most {longest:g} s are possible (sessions.resume_seconds)"
        )
        raise Fault(Code.INVALID, message)
    if deadline is not None and deadline <= not_before:
        raise Fault(Code.INVALID, "its deadline passes before it is to begin")
