"""Errors on their way from a worker process to the server: their class, their text, their traceback."""

import traceback

from podpair.inference.core import errors
from podpair.inference.core.errors import InferenceError, OverloadedError
from podpair.inference.core.worker_messages import Failure
from podpair.inference.runtime.user_code import UserCodeError

_KINDS: dict[str, type[InferenceError]] = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, InferenceError)
}


class WorkerTraceback(Exception):
    """The traceback in a worker process, as the cause of the error that was made of it here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def __str__(self) -> str:
        return f"\n{self._text}"


def failure_of(error: BaseException) -> Failure:
    """Return what is sent of an error; for a class of the user's, its known base class."""
    known = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS), "")
    if isinstance(error, InferenceError) and known:
        return Failure(known, str(error), error.retry_after if isinstance(error, OverloadedError) else 0.0)
    text = str(error) if isinstance(error, UserCodeError) else f"{type(error).__name__}: {error}"
    return Failure("", text, traceback="".join(traceback.format_exception(error)))


def error_of(failure: Failure) -> Exception:
    """Return the error that was sent."""
    kind = _KINDS.get(failure.kind)
    if kind is OverloadedError:
        return OverloadedError(failure.text, failure.retry_after)
    if kind is not None:
        return kind(failure.text)
    error = UserCodeError(failure.text)
    error.__cause__ = WorkerTraceback(failure.traceback)
    return error
