"""Which records of a transaction keep it from being committed, however often it is tried: they are left out, or replaced."""

from confluent_kafka import KafkaError

NOWHERE = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
    }
)
"""What is said of a record whose topic or partition isn't there, or may not be written."""


class Refusals:
    """Collects them from the outcomes of a transaction's records. indexes: of those that are refused."""

    def __init__(self) -> None:
        self.indexes: set[int] = set()
        self._written = False

    def note(self, index: int, error: KafkaError | None, *, optional: bool) -> bool:
        """Note a record's outcome; return whether it is refused. optional: it is left out where it can't be written."""
        if error is None:
            self._written = True
            return False
        code = error.code()
        # A topic that isn't there shows as time that has run out, but then others have been written.
        nowhere = code in NOWHERE or (code == KafkaError._MSG_TIMED_OUT and self._written)
        if code != KafkaError.MSG_SIZE_TOO_LARGE and not (optional and nowhere):
            return False
        self.indexes.add(index)
        return True
