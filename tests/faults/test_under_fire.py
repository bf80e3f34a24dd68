"""Everything dies, freezes, misbehaves and comes back while clients ask on every route: nothing is lost, nothing comes twice.

Then the topics themselves are deleted and made again, widened and cut: what is lost so is declared, and each accepted request
ends all the same. `make test-faults MINUTES=10` runs each part as long as you like.
PODPAIR_FAULT_SEED repeats a run's choices, though not the moments at which they fall.
"""

import asyncio
import logging
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from harness import faults
from harness.crowd import Crowd, reads_nothing
from harness.fleet import GROUP, REQUESTS, RESULTS, Fleet, resident_mb
from harness.waiting import until

_log = logging.getLogger(__name__)
_MINUTES = float(os.environ.get("PODPAIR_FAULT_MINUTES", "0.5"))
_LEAST = max(1, round(2 * _MINUTES))  # faults of each kind: 20 in ten minutes
_CLIENTS = 300
_SETTLE = 120.0  # seconds for what is under way when the faults are over


def clients(fleet: Fleet, crowd: Crowd, rng: random.Random) -> dict[str, faults.Fault]:
    """What happens to clients: their wires are cut, or they read nothing, for a while or for good, while much comes for them."""

    async def cut() -> None:
        for member in rng.sample(crowd.members, len(crowd.members) // 10):
            assert member.session is not None
            member.session.cut()

    async def slow() -> None:
        await rng.choice(crowd.members).is_slow(4.0, records=60)

    async def deaf() -> None:
        urls = [pair.ws for pair in rng.sample(fleet.pairs, 2)]
        await reads_nothing(urls, fleet.brokers.addresses, f"deaf-{rng.random()}")

    return {"clients cut": cut, "client slow": slow, "client reads nothing": deaf}


def a_seed() -> int:
    """What the choices of a run follow from."""
    return int(os.environ.get("PODPAIR_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


async def watch_memory(fleet: Fleet, seen: dict[str, list[float]]) -> None:
    """Resident memory of each half, once a second."""
    while True:
        for number, pair in enumerate(fleet.pairs):
            for name, process in ((f"gateway {number}", pair.gateway), (f"inference {number}", pair.inference)):
                if (size := resident_mb(process)) is not None:
                    seen[name].append(size)
        await asyncio.sleep(1)  # its pace


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that can't connect are what is wanted here."""
    caplog.set_level(logging.ERROR, "podpair.client")


@pytest.mark.process
@pytest.mark.timeout(300)
async def test_what_is_planted_is_found(fleet: Fleet) -> None:
    """A member of the group that commits requests and answers none; a record that is pushed twice, and one in the wrong order."""
    crowd = Crowd(fleet, 30, random.Random(1))

    async def fire(crowd: Crowd) -> None:
        await asyncio.to_thread(steal, fleet, 5)
        first, second = crowd.members[:2]
        crowd.push(first)
        first.pushed -= 1
        crowd.push(first)
        second.pushed += 1
        crowd.push(second)
        second.pushed -= 2
        crowd.push(second)
        second.pushed += 1

    await crowd.run(fire, 60.0)
    # Who stole requests has committed them: the gateways see that nobody answers, and their clients are told.
    assert crowd.requests.outcomes["lost"] > 0
    told = [fault.split(":") for fault in crowd.faults()]
    assert [(who, what) for who, what, *_ in told] == [("c-0", " twice"), ("c-1", " out of order")]


@pytest.mark.process
@pytest.mark.timeout(300)
async def test_a_request_that_nobody_knows_of_any_more_is_found(fleet: Fleet) -> None:
    """The same, and the gateways that accepted the requests are killed before they have seen it."""
    crowd = Crowd(fleet, 30, random.Random(2))
    stolen: set[str] = set()

    async def fire(_: Crowd) -> None:
        stolen.update(await asyncio.to_thread(steal, fleet, 10))
        for pair in fleet.pairs:
            pair.gateway.kill()
        for pair in fleet.pairs:
            await asyncio.to_thread(pair.start_gateway)

    await crowd.run(fire, 30.0)
    silent = {f"{request.partition('.')[0]}/{request}: accepted, never ended" for request in stolen}
    found = set(crowd.requests.faults())
    assert found, stolen
    assert found <= silent
    said = await asyncio.to_thread(whereabouts, fleet, stolen)
    assert len(said) == len(stolen)
    assert all(f"{REQUESTS}[" in line and "committed" in line for line in said), said


def steal(fleet: Fleet, count: int) -> set[str]:
    """Commit that many requests as a member of the group that does not work on them; their ids."""
    stolen: set[str] = set()
    with faults.visitor(fleet) as thief:
        end = time.monotonic() + 60
        while len(stolen) < count and time.monotonic() < end:
            message = thief.poll(0.1)
            if message is not None and message.error() is None:
                thief.commit(message, asynchronous=False)
                stolen.add(dict(message.headers())["ce_id"].decode())
    return stolen


@pytest.mark.process
@pytest.mark.timeout(_MINUTES * 180 + 600)
async def test_nothing_is_lost_and_nothing_comes_twice(fleet: Fleet) -> None:
    seed = a_seed()
    rng = random.Random(seed)
    storm = faults.Storm(rng, Counter())
    memory: dict[str, list[float]] = defaultdict(list)
    crowd = Crowd(fleet, _CLIENTS, rng)

    async def fire(crowd: Crowd) -> None:
        trains = [
            faults.processes(fleet, rng),
            faults.brokers(fleet, rng),
            clients(fleet, crowd, rng) | faults.rebalances(fleet, rng),
            faults.models(fleet, rng),
        ]
        watching = asyncio.create_task(watch_memory(fleet, memory))
        try:
            await storm.run(trains, _MINUTES * 60, _LEAST)
        finally:
            watching.cancel()

    await crowd.run(fire, _SETTLE)
    twice = sum(n > 1 for n in crowd.terminals.values())
    report(seed, storm, crowd)
    _log.info("second terminal events, dropped by clients: %d", twice)
    found = [*fleet.ended(), *crowd.faults()]
    for name, (before, after) in sorted((name, halves(sizes)) for name, sizes in memory.items()):
        _log.info("%s: at most %.0f MB in the first half, %.0f MB in the second", name, before, after)
        # One that has just begun has not yet had what it keeps: tails, sessions, answers. It has with 120 MB.
        if after >= 1.3 * max(before, 120) + 20:
            found.append(f"{name}: grew from {before:.0f} to {after:.0f} MB")
    # What is queued twice, by clients that were in doubt, may still be worked on when all have their answers.
    try:
        await asyncio.to_thread(until, lambda: not open_requests(fleet), timeout=_SETTLE)
    except AssertionError:
        found.append(f"not committed, by partition: {open_requests(fleet)}")
    judge(found, seed, storm, crowd, fleet)


@pytest.mark.process
@pytest.mark.timeout(_MINUTES * 180 + 600)
async def test_topics_that_change_lose_nothing_in_silence(fleet: Fleet) -> None:
    seed = a_seed()
    rng = random.Random(seed)
    storm = faults.Storm(rng, Counter())
    crowd = Crowd(fleet, _CLIENTS, rng)
    for member in fleet.brokers.members:  # leaders' epochs are above 0, as wherever brokers live for a while
        await asyncio.to_thread(member.stop)
        member.start()
        await asyncio.to_thread(member.wait_ready)
    topics = faults.Topics(fleet, rng, crowd.changed)

    async def fire(crowd: Crowd) -> None:
        some = faults.processes(fleet, rng)
        trains = [
            topics.kinds(),
            {kind: some[kind] for kind in ("gateway killed", "gateway frozen", "inference killed")},
            {"clients cut": clients(fleet, crowd, rng)["clients cut"]} | faults.rebalances(fleet, rng),
        ]
        await storm.run(trains, _MINUTES * 60, _LEAST)
        await asyncio.to_thread(until, topics.settled, "both gateways are ready", 120)

    await crowd.run(fire, _SETTLE)
    report(seed, storm, crowd)
    judge([*fleet.ended(), *crowd.faults_with_gaps()], seed, storm, crowd, fleet)


def report(seed: int, storm: faults.Storm, crowd: Crowd) -> None:
    """Log what has come to pass."""
    _log.info("seed %d; faults: %s", seed, dict(sorted(storm.counts.items())))
    _log.info("%d pushed; requests: %s", sum(m.pushed for m in crowd.members), dict(crowd.requests.outcomes))
    _log.info("gaps: %s; errors: %s", dict(crowd.reasons), dict(crowd.errors))


def judge(found: list[str], seed: int, storm: faults.Storm, crowd: Crowd, fleet: Fleet) -> None:
    """Fail with all that is wrong, and what is needed to understand it, where anything is.

    How many requests are answered, and how soon, is the machine's to say. But each client is, once
    all is over: never to answer would keep every promise.
    """
    found += [f"unforeseen: {line}" for pair in fleet.pairs for line in pair.unforeseen()]
    found += [f"{kind}: only {n} of {_LEAST}" for kind, n in storm.counts.items() if n < _LEAST]
    if empty := crowd.requests.outcomes["empty"]:
        found.append(f"{empty} results without an answer")
    left = [member for member in crowd.members if not member.answered]
    found += [
        f"{member.name}: not answered when all was over, {member.errors}; {'; '.join(member.told[-12:])}"
        for member in left
    ]
    if not found:
        return
    found += whereabouts(fleet, {member.pending for member in left if member.pending})
    logs = fleet.keep_logs()
    (logs / "faults").write_text("\n".join([*found, *crowd.histories(found)]))
    told = "\n".join(line[:1500] for line in found[:30])
    pytest.fail(
        f"{len(found)} faults (all of them, and the gateways' logs, are in {logs}):\n{told}\n"
        f"PODPAIR_FAULT_SEED={seed}; faults: {dict(sorted(storm.counts.items()))}\n"
        f"requests: {dict(crowd.requests.outcomes)}; gaps: {dict(crowd.reasons)}; errors: {dict(crowd.errors)}"
    )


def whereabouts(fleet: Fleet, requests: set[str]) -> list[str]:
    """Where Kafka has the records of these requests, a line each: those of the request, with what is committed, and answers."""
    seen: dict[str, list[str]] = {request: [] for request in requests}
    consumer = Consumer(
        {"bootstrap.servers": fleet.brokers.addresses, "group.id": GROUP, "enable.partition.eof": True, "log_level": 0}
    )
    try:
        for topic in (REQUESTS, RESULTS):
            left = set(consumer.list_topics(topic, 20).topics[topic].partitions)
            committed = consumer.committed([TopicPartition(topic, p) for p in left], 20)
            commits = {c.partition: f", committed {c.offset} {c.metadata}" for c in committed if topic == REQUESTS}
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in left])
            end = time.monotonic() + 30
            while left and time.monotonic() < end:
                for record in consumer.consume(1000, 0.2):
                    partition = record.partition()
                    if record.error() is not None:
                        left.discard(partition)
                        continue
                    headers = {name: value.decode() for name, value in record.headers() or ()}
                    if (request := headers.get("ce_id", "")) in seen:
                        place = f"{topic}[{partition}]@{record.offset()} {headers.get('ce_type')}"
                        seen[request].append(place + commits.get(partition, ""))
    finally:
        consumer.close()
    return [f"{request}: {'; '.join(places) or 'in no log'}" for request, places in sorted(seen.items())]


def halves(sizes: list[float]) -> tuple[float, float]:
    """The largest of the first half, and of the second."""
    middle = len(sizes) // 2
    return max(sizes[:middle]), max(sizes[middle:])


def open_requests(fleet: Fleet) -> dict[int, int]:
    """Queued requests whose offsets the gateways have not committed: how many, by partition."""
    consumer = Consumer({"bootstrap.servers": fleet.brokers.addresses, "group.id": GROUP, "log_level": 0})
    try:
        partitions = consumer.list_topics(REQUESTS, 20).topics[REQUESTS].partitions
        committed = consumer.committed([TopicPartition(REQUESTS, p) for p in partitions], 20)
        ends = {p: consumer.get_watermark_offsets(TopicPartition(REQUESTS, p), 20)[1] for p in partitions}
        return {c.partition: left for c in committed if (left := ends[c.partition] - max(c.offset, 0))}
    finally:
        consumer.close()
