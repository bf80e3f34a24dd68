"""What a client is told when a model fails; the log has the rest."""

import logging

from podpair.inference.core.errors import InferenceError, ModelError

log = logging.getLogger(__name__)


def explain(model: str, error: Exception) -> InferenceError:
    """Errors that are meant for the client as they are; any other is logged, and becomes ModelError."""
    if isinstance(error, InferenceError):
        return error
    log.error("the model failed", extra={"model": model, "error": str(error)}, exc_info=error)
    return ModelError(f"model {model} failed: {error}")
