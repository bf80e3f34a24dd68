"""`submit` and `attach` of podpair.client: a request whose answer somebody else fetches, later, at any gateway."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.fake_model import FakeModel
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from harness.topics import TopicAdmin
from harness.waiting import soon
from podpair import client

pytestmark = pytest.mark.process

MODELS = Path(__file__).parent / "models"


@pytest.fixture
def two(real_gateway: Callable[..., Gateway], model: FakeModel) -> list[Gateway]:
    """Two gateways on the same topics, before one model."""
    inference = {"url": model.url, "probe_seconds": 0.1}
    return [real_gateway(inference=inference), real_gateway(inference=inference)]


async def submitted(gateway: Gateway, **options: Any) -> str:
    return await client.submit(gateway.url, "fake", [1.0, 2.0], token=token(), **options)


async def test_the_answer_is_fetched_at_another_gateway_after_the_first_has_died(
    two: list[Gateway], model: FakeModel
) -> None:
    model.open.clear()
    reference = await submitted(two[0])
    await soon(lambda: model.asked)
    two[0].kill()
    model.open.set()
    async with client.attach(two[1].url, reference, token=token()) as job:
        assert not job.done
        with pytest.raises(TimeoutError):
            await job.result(timeout=0)
        result = await job.result()
        assert (result.id, result.data, job.done) == (job.id, {"y": [1.0]}, True)
        assert job.reference == reference


async def test_it_is_fetched_as_often_as_one_likes(two: list[Gateway], model: FakeModel) -> None:
    reference = await submitted(two[0], id="j-mine", parameters={"k": 1})
    positions = set()
    for gateway in (*two, *two):
        async with client.attach(gateway.url, reference, token=token()) as job:
            result = await job.result()
            positions.add(result.position)
            assert (result.id, result.data) == ("j-mine", {"y": [1.0]})
    assert len(positions) == 1
    assert [asked["parameters"]["k"] for asked in model.asked] == [1]


async def test_one_submitter_does_not_disturb_another_or_its_own_session(two: list[Gateway], model: FakeModel) -> None:
    async with client.connect(two[0].url, token=token()) as session:
        references = await asyncio.gather(*(submitted(two[0]) for _ in range(20)))

        async def fetched(reference: str) -> str:
            async with client.attach(two[1].url, reference, token=token()) as job:
                return (await job.result()).id

        assert len(set(await asyncio.gather(*map(fetched, references)))) == 20
        assert session.state == "open"
        assert (await session.infer("fake", [1.0, 2.0])).data == {"y": [1.0]}


async def test_it_is_cancelled_by_who_follows_it(two: list[Gateway], model: FakeModel) -> None:
    model.open.clear()
    reference = await submitted(two[0])
    await soon(lambda: model.asked)
    async with client.attach(two[1].url, reference, token=token()) as job:
        assert await job.cancel()
        with pytest.raises(client.Cancelled):
            await job.result()
    model.open.set()
    async with client.attach(two[0].url, reference, token=token()) as job:
        with pytest.raises(client.Cancelled):
            await job.result()
        assert await job.cancel()
    done = await submitted(two[0])
    async with client.attach(two[0].url, done, token=token()) as job:
        await job.result()
        assert not await job.cancel()


async def test_what_the_model_or_the_gateway_refuses_is_told(two: list[Gateway], model: FakeModel) -> None:
    with pytest.raises(client.Invalid):
        await client.submit(two[0].url, "fake", {"not": "a row"}, token=token(), inputs=[])
    model.answer = (400, {"error": "such rows are not for me"})
    reference = await submitted(two[0])
    async with client.attach(two[0].url, reference, token=token()) as job:
        with pytest.raises(client.Invalid, match="such rows are not for me"):
            await job.result()


async def test_a_deadline_that_passes_ends_it(two: list[Gateway], model: FakeModel) -> None:
    model.open.clear()
    reference = await submitted(two[0], deadline=0.3)
    async with client.attach(two[1].url, reference, token=token()) as job:
        with pytest.raises(client.DeadlineExceeded):
            await job.result()


async def test_another_subject_or_text_gets_nothing(two: list[Gateway]) -> None:
    reference = await submitted(two[0])
    with pytest.raises(client.Unauthorized):
        async with client.attach(two[0].url, reference, token=token("mallory")):
            pass
    for wrong in ("", "no reference", reference[:-9], reference + "AAAA", "WzFd"):
        with pytest.raises(ValueError, match="no reference of a job"):
            async with client.attach(two[0].url, wrong, token=token()):
                pass


async def test_one_whose_answer_is_not_kept_any_more_is_lost(
    two: list[Gateway], broker: Broker, names: dict[str, Any]
) -> None:
    reference = await submitted(two[0])
    async with client.attach(two[0].url, reference, token=token()) as job:
        position = (await job.result()).position
    assert position is not None
    _, partition, offset = position.split(".")
    TopicAdmin(broker.address).cut(names["results"]["topic"], int(partition), int(offset) + 1)
    async with client.attach(two[1].url, reference, token=token()) as job:
        with pytest.raises(client.Lost):
            await job.result()


async def test_progress_is_told_from_the_start_to_whoever_comes(
    real_gateway: Callable[..., Gateway],
) -> None:
    chat = Inference(models=MODELS)
    try:
        gateway = real_gateway(inference={"url": chat.url})
        reference = await client.submit(gateway.url, "chat", "to be or not", token=token(), stream=True)
        for _ in range(2):
            async with client.attach(gateway.url, reference, token=token()) as job:
                parts = [part async for part in job.partials()]
                result = await job.result()
                whole = next(iter(result.data.values()))
                assert "".join(parts) == whole
                assert "to be or not".replace(" ", "") in whole.replace(" ", "")
    finally:
        chat.stop()


async def test_one_that_may_be_asked_again_has_an_answer_all_the_same(
    two: list[Gateway], model: FakeModel, broker: Broker, names: dict[str, Any]
) -> None:
    """Its answer was deleted from the topic: it runs once more, unless the gateway that gets it now is the one that gave that."""
    reference = await submitted(two[0], parameters={"k": 1})
    async with client.attach(two[0].url, reference, token=token()) as job:
        position = (await job.result()).position
    assert position is not None
    _, partition, offset = position.split(".")
    TopicAdmin(broker.address).cut(names["results"]["topic"], int(partition), int(offset) + 1)
    again = {"parameters": {"k": 2}, "token": token()}
    async with client.attach(two[1].url, reference, "fake", [1.0, 2.0], **again) as job:
        result = await job.result()
    assert (result.id, result.data) == (job.id, {"y": [1.0]})
    assert [asked["parameters"]["k"] for asked in model.asked] in ([1], [1, 2])
