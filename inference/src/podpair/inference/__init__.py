"""The inference half of a pair: it batches and runs a model, and knows nothing of sessions or brokers.

A Python model needs nothing from here, unless it refuses a request: for good (InvalidRequestError, 400), or for now, because
something that it needs is away (UnavailableError, 503); or calls the models beside it (`models`), which answer with one of these
errors or the others here. Any other exception is 500. A step of a workflow gets a StepContext.
"""

from podpair.inference.core.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    ModelError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from podpair.inference.core.step_context import StepContext

__all__ = [
    "DeadlineExceededError",
    "InferenceError",
    "InvalidRequestError",
    "ModelError",
    "NotFoundError",
    "OverloadedError",
    "StepContext",
    "UnavailableError",
]
