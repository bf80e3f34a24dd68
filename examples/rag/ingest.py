"""Documents to the topic of requests, and what became of each from the topic of results: a producer as any service may be one.

    python ingest.py --kafka host:port docs/*.md
    python ingest.py --kafka host:port --remove docs/gone.md

A record is a request (a CloudEvent, docs/protocol.md) for the model `ingest`, which the pairs work on when they can: this
program may end before, with Ctrl-C, and nothing is lost. Of two versions of a document the later one stays.
"""

import argparse
import json
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

HERE = Path(__file__).resolve().parent
#: Where `make rag` says where its broker is.
ADDRESS = HERE.parents[1] / "var/rag/kafka"
_MODEL = "ingest"
_PATIENCE = 10.0  # seconds for the broker


@dataclass
class Outcome:
    """What became of the documents."""

    open: dict[str, str] = field(default_factory=dict)  # source, by request id
    failed: int = 0

    def tell(self, source: str, what: str, *, failed: bool = False) -> None:
        self.failed += failed
        print(f"  {source}: {what}", file=sys.stderr if failed else sys.stdout, flush=True)


def value_of(source: str, text: str, version: int) -> bytes:
    """The value of a request record: V2 tensors of one row, the answer in chunks."""
    inputs: list[dict[str, Any]] = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in (("source", source), ("text", text))
    ]
    inputs.append({"name": "version", "datatype": "INT64", "shape": [1], "data": [version]})
    return json.dumps({"inputs": inputs, "stream": True}).encode()


def headers_of(identity: str, session: str) -> list[tuple[str, str | bytes | None]]:
    """The attributes of the CloudEvent."""
    return [("ce_specversion", b"1.0"), ("ce_type", b"dev.podpair.request"), ("ce_source", b"/rag/ingest"),
            ("ce_id", identity.encode()), ("ce_subject", session.encode()), ("model", _MODEL.encode()),
            ("content-type", b"application/json")]  # fmt: skip


class Topics:
    """The two topics. Raises KafkaException if the broker can't be reached."""

    def __init__(self, kafka: str, requests: str, results: str) -> None:
        common = {"bootstrap.servers": kafka, "log_level": 3}
        # Nobody's offsets are committed: what is read begins now.
        self._consumer = Consumer(common | {"group.id": f"rag-ingest-{uuid.uuid4()}", "enable.auto.commit": False})
        found = self._consumer.list_topics(results, timeout=_PATIENCE).topics[results]
        if found.error is not None or not found.partitions:
            raise KafkaException(found.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        ends = [TopicPartition(results, number, OFFSET_END) for number in found.partitions]
        for end in ends:
            end.offset = self._consumer.get_watermark_offsets(end, timeout=_PATIENCE)[1]
        self._consumer.assign(ends)
        self._producer = Producer(common | {"enable.idempotence": True})
        self._requests = requests
        self.session = f"rag-ingest-{uuid.uuid4()}"

    def send(self, source: str, text: str, version: int, outcome: Outcome) -> None:
        """Write the request. Raises KafkaException or BufferError."""
        identity = str(uuid.uuid4())

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None and outcome.open.pop(identity, None):
                outcome.tell(source, f"not written to {self._requests}: {error.str()}", failed=True)

        outcome.open[identity] = source
        try:
            self._producer.produce(
                self._requests, value_of(source, text, version), headers=headers_of(identity, self.session),
                on_delivery=delivered,
            )  # fmt: skip
        except BaseException:
            del outcome.open[identity]
            raise
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has acknowledged or refused each record."""
        self._producer.flush()

    def answers(self, seconds: float) -> list[tuple[str, str, dict[str, Any]]]:
        """Read what has come for this session: the request's id, the record's type and its value."""
        found = []
        for record in self._consumer.consume(100, seconds):
            if record.error() is not None:
                continue
            if record.key() == self.session.encode():
                headers = {name: (value or b"").decode() for name, value in record.headers() or ()}
                found.append((headers["ce_id"], headers["ce_type"], json.loads(record.value() or b"null")))
        return found

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


def follow(topics: Topics, outcome: Outcome, patience: float) -> None:
    """Report until all has ended, or nothing has come for `patience` seconds."""
    heard = time.monotonic()
    while outcome.open:
        for identity, kind, value in topics.answers(0.5):
            heard = time.monotonic()
            source = outcome.open.get(identity)
            if source is None:
                continue
            if kind == "dev.podpair.result":
                del outcome.open[identity]
                last = json.loads(value["data"]["output"].splitlines()[-1])
                outcome.tell(source, f"{last['outcome']}, {last['passages']} passages ({last['embedded']} embedded)")
            elif kind == "dev.podpair.error":
                del outcome.open[identity]
                outcome.tell(source, f"{value['code']}: {value['message']}", failed=True)
        if outcome.open and time.monotonic() - heard > patience:
            for source in outcome.open.values():
                outcome.tell(source, f"queued, and without an answer for {patience:.0f} s", failed=True)
            return


def documents(options: argparse.Namespace, outcome: Outcome) -> dict[str, str]:
    """The texts by their sources: the paths as given, below the working directory without it."""
    found = dict.fromkeys(map(source_of, options.remove), "")
    for path in options.files:
        try:
            found[source_of(path)] = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            outcome.tell(str(path), f"can't be read: {error}", failed=True)
    return found


def source_of(path: Path) -> str:
    """The name of a document in the store."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="Markdown, in UTF-8")
    parser.add_argument("--kafka", help="host:port of the broker; default: that of `make rag`, while it runs")
    parser.add_argument("--requests", default="podpair.requests", help="the topic of requests")
    parser.add_argument("--results", default="podpair.results", help="the topic of results")
    parser.add_argument("--remove", type=Path, nargs="+", default=[], help="documents that are no more")
    parser.add_argument("--patience", type=float, default=120, help="seconds without news until it stops waiting")
    options = parser.parse_args()
    if not options.files and not options.remove:
        parser.error("no documents")
    if options.kafka is None and not ADDRESS.exists():
        parser.error("no broker: start `make rag` in another shell, or say --kafka host:port")
    kafka = options.kafka or ADDRESS.read_text()
    outcome = Outcome()
    texts = documents(options, outcome)
    version = time.time_ns()
    try:
        topics = Topics(kafka, options.requests, options.results)
    except KafkaException as error:
        parser.exit(1, f"the broker at {kafka}: {error.args[0].str()}\n")
    for source, text in texts.items():
        try:
            topics.send(source, text, version, outcome)
        except (KafkaException, BufferError) as error:
            outcome.tell(source, f"not written to {options.requests}: {error}", failed=True)
    try:
        topics.flush()
        follow(topics, outcome, options.patience)
    except KeyboardInterrupt:
        print(f"  {len(outcome.open)} documents are queued, and will be ingested", file=sys.stderr)
        return 130
    finally:
        topics.close()
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
