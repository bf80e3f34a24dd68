"""Requests share calls only with a model whose rows are known to be independent.

By its server, by the operator, or by a trial.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.upstream.conftest import PATIENCE, Asker, RowsServer
from podpair.gateway.core.models import model_of
from podpair.gateway.core.row_comparison import is_conclusive, rows_match
from podpair.gateway.core.tensors import Output, unpack
from podpair.gateway.upstream import grpc_messages
from podpair.gateway.upstream.proto import v2_pb2 as pb

Begin = Callable[..., Awaitable[Asker]]


async def together(server: RowsServer, asker: Asker, model: str) -> list[int]:
    """The rows of each call of five requests that come while one is in flight."""
    before = len(server.calls)
    server.open.clear()
    first = asker.ask("first", [1.0, 1.0], model)
    await server.had(before + 1)
    tasks = [asker.ask(f"r{n}", [float(n), 1.0], model) for n in range(5)]
    await asyncio.sleep(0)
    server.open.set()
    await asyncio.gather(first, *tasks)
    return sorted(server.rows[before:])


async def tried(server: RowsServer, asker: Asker, model: str, calls: int) -> None:
    """Ask until the model has been tried: four different requests, and what the trial asks besides."""
    before = len(server.calls)
    for n in range(4):
        await asker.ask(f"t{n}", [float(10**n), float(n)], model)
    await server.had(before + 4 + calls)
    await over(asker)


async def over(asker: Asker) -> None:
    """Return once no trial is at work."""
    probe = asker.inference._probe
    assert probe is not None
    async with asyncio.timeout(PATIENCE):
        while any(state.running for state in probe._states.values()):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("model", "config", "calls"),
    [
        ("rows", {}, [1, 5]),
        ("independent", {}, [1, 5]),
        ("dependent", {}, [1] * 6),
        ("single", {}, [1] * 6),
        # Nothing is known of it, and nothing has been tried.
        ("silent", {"probe": False}, [1] * 6),
        ("silent", {"probe": False, "include": ["silent"]}, [1, 5]),
        ("silent", {"include": ["silent"], "exclude": ["silent"]}, [1] * 6),
    ],
)
async def test_who_says_so_decides(
    rows_server: RowsServer, asker: Begin, model: str, config: dict[str, Any], calls: list[int]
) -> None:
    assert await together(rows_server, await asker(batching=config), model) == calls


async def test_a_silent_model_is_tried_with_what_it_was_asked_and_shares_then(
    rows_server: RowsServer, asker: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    inference = await asker()
    await tried(rows_server, inference, "silent", 6)
    # Each alone, then all together in two orders.
    assert rows_server.rows == [1] * 8 + [4, 4]
    assert rows_server.calls[-2]["rows"] == rows_server.calls[-1]["rows"][::-1]
    assert await together(rows_server, inference, "silent") == [1, 5]
    assert "its requests share calls" in caplog.text


async def test_a_silent_model_that_scales_by_the_call_goes_alone_for_good(
    rows_server: RowsServer, asker: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    inference = await asker()
    await tried(rows_server, inference, "scaled", 5)
    assert await together(rows_server, inference, "scaled") == [1] * 6
    await tried(rows_server, inference, "scaled", 0)
    assert max(rows_server.rows[9:]) == 1
    (told,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "it answers a row in company otherwise than alone" in told
    assert "name it in batching.include" in told


async def test_labels_show_nothing(rows_server: RowsServer, asker: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podpair.gateway.upstream.row_probe._PAUSE", 0.0)
    inference = await asker()
    for _ in range(3):
        await tried(rows_server, inference, "labels", 4)
    assert rows_server.rows == [1] * 24
    # It was enough: it isn't tried again.
    await tried(rows_server, inference, "labels", 0)
    assert await together(rows_server, inference, "labels") == [1] * 6


async def test_a_server_that_fails_a_trial_is_tried_later(
    rows_server: RowsServer, asker: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podpair.gateway.upstream.row_probe._PAUSE", 0.0)
    inference = await asker()
    for n in (1.0, 2.0, 3.0):
        await inference.ask("t", [n, n], "silent")
    with pytest.raises(Exception, match="fourteen"):
        await inference.ask("t", [14.0, 0.0], "silent")
    await rows_server.had(8)
    await over(inference)
    await tried(rows_server, inference, "silent", 6)
    assert await together(rows_server, inference, "silent") == [1, 5]


async def test_equal_requests_and_large_ones_are_no_trial(rows_server: RowsServer, asker: Begin) -> None:
    inference = await asker(batching={"max_bytes": 40})
    for _ in range(6):
        await inference.ask("t", [1.0, 1.0], "silent")
    for n in range(6):
        await inference.ask("t", ((float(n), 1.0), (2.0, 2.0)), "silent")
    assert len(rows_server.calls) == 12


GOOD = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1]}]%b}'


@pytest.mark.parametrize(
    ("metadata", "config", "shares"),
    [
        (b"", None, None),
        (b"", b"{}", None),
        (b"", b"not JSON", None),
        (b"", b'{"max_batch_size":-1}', None),
        (b"", b'{"max_batch_size":0}', False),
        (b"", b'{"max_batch_size":1}', False),
        (b"", b'{"max_batch_size":8}', True),
        (b"", b'{"max_batch_size":8,"sequence_batching":{}}', False),
        (b"", b'{"max_batch_size":8,"parameters":{"rows":{"string_value":"dependent"}}}', False),
        (b"", b'{"max_batch_size":8,"parameters":{"rows":7}}', True),
        (b"", b'{"max_batch_size":8,"parameters":[]}', True),
        (b',"parameters":{"rows":"independent"}', None, True),
        (b',"parameters":{"rows":"none"}', None, False),
        (b',"parameters":"rows"', None, None),
    ],
)
def test_what_a_server_says_of_its_rows(metadata: bytes, config: bytes | None, shares: bool | None) -> None:
    assert model_of("m", GOOD % metadata, config).shares is shares


def test_over_grpc_the_configuration_says_it() -> None:
    metadata = pb.ModelMetadataResponse(name="m")
    for side in (metadata.inputs, metadata.outputs):
        side.add(name="x", datatype="FP32", shape=[-1, 2])
    for rows, shares in (("independent", True), ("dependent", False), (None, True)):
        config = pb.ModelConfigResponse()
        config.config.max_batch_size = 8
        if rows is not None:
            config.config.parameters["rows"].string_value = rows
        model = grpc_messages.model_of_messages("m", metadata.SerializeToString(), config.SerializeToString())
        assert model.shares is shares
    assert grpc_messages.model_of_messages("m", metadata.SerializeToString(), None).shares is None


def output(*values: object, datatype: str = "FP32", shape: tuple[int, ...] | None = None) -> Output:
    return Output("y", datatype, shape or (len(values),), values)


@pytest.mark.parametrize(
    ("alone", "whole", "alike"),
    [
        ([output(1.0), output(2.0)], output(1.0, 2.0), True),
        ([output(1.0), output(2.0)], output(2.0, 1.0), False),
        ([output(1.0), output(2.0)], output(1.00005, 2.0), True),
        ([output(1.0), output(2.0)], output(1.001, 2.0), False),
        ([output(1.0), output(2.0)], output(1.0, 2.0, 3.0), False),
        ([output(1, datatype="INT64"), output(2, datatype="INT64")], output(1, 3, datatype="INT64"), False),
        ([output("a", datatype="BYTES"), output("b", datatype="BYTES")], output("a", "b", datatype="BYTES"), True),
        ([output(float("nan")), output("NaN")], output(float("nan"), float("nan")), True),
        ([output(1.0), output(None)], output(1.0, 2.0), False),
        (
            [output(1.0, 2.0, shape=(1, 2)), output(3.0, 4.0, shape=(1, 2))],
            output(1.0, 2.0, 3.0, 4.0, shape=(4, 1)),
            False,
        ),
    ],
)
def test_answers_alone_and_in_company(alone: list[Output], whole: Output, alike: bool) -> None:
    assert rows_match([[one] for one in alone], [whole], [1, 1]) is alike


def test_what_is_the_same_for_all_shows_nothing() -> None:
    assert is_conclusive([[output(1.0)], [output(2.0)]])
    assert not is_conclusive([[output(1.0)], [output(1.0)]])
    assert not is_conclusive([[output(1, datatype="INT64")], [output(2, datatype="INT64")]])


async def test_numbers_that_are_not_finite_have_names_alone_and_in_company(
    rows_server: RowsServer, asker: Begin
) -> None:
    """Whichever way the model was asked, and however its server writes them."""
    inference = await asker()
    for binary in (True, False):
        rows_server.binary = binary
        for model in ("quotients", "quotients_alone"):
            rows: list[Any] = [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], ((1.0, 0.0), (3.0, 2.0))]
            found = await asyncio.gather(*(inference.ask("r", row, model) for row in rows))
            answers = [answer["data"]["y"] for answer in found]
            assert answers == ["NaN", "Infinity", "-Infinity", 0.5, ["Infinity", 1.5]], model
            tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 0, 1, 2]}
            answer = await inference.ask("r", None, model, inputs=[tensor])
            assert answer["outputs"][0]["data"] == ["Infinity", 0.5]


def test_over_grpc_names_become_numbers_and_numbers_names() -> None:
    inputs = b'[{"name":"x","datatype":"FP32","shape":[1,3],"data":["NaN",[1.0],"-Infinity"]}]'.replace(
        b"[1.0]", b"1.0"
    )
    message = grpc_messages.request_of_inputs("m", inputs, b"", "r")
    raw = pb.ModelInferRequest.FromString(message).raw_input_contents[0]
    told = unpack(raw, "FP32", 3)
    assert (math.isnan(told[0]), told[1:]) == (True, (1.0, -math.inf))
    outputs = json.loads(grpc_messages.outputs_json([Output("y", "FP32", (1, 3), told)]))
    assert outputs[0]["data"] == ["NaN", 1.0, "-Infinity"]
