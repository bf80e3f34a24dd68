"""The inference half of a pair: it batches and runs a model, and knows nothing of sessions or brokers.

A Python model needs nothing from here, unless it refuses a request (400 instead of 500) raises InvalidRequestError.
"""

from podpair.inference.core.errors import InvalidRequestError

__all__ = ["InvalidRequestError"]
