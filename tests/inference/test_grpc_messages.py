"""What is remembered of a gRPC request's head serves others with the same head, and only those."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import TensorSpec
from podpair.inference.grpc import messages
from podpair.inference.grpc.proto import open_inference_pb2 as pb

pytestmark = pytest.mark.pure

OUTPUTS = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "INT64", (-1,)))


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(ModelConfig(), inputs or (TensorSpec("a", "FP32", (-1, 2)),), OUTPUTS, "test")


def request(*raw: Sequence[float], rows: int = 1, name: str = "a", **more: Any) -> bytes:
    asked = pb.ModelInferRequest(model_name="m", id="r", **more)
    asked.inputs.add(name=name, datatype="FP32", shape=[rows, 2])
    asked.parameters["k"].int64_param = 7
    asked.raw_input_contents.extend(np.array(values, "<f4").tobytes() for values in raw)
    encoded: bytes = asked.SerializeToString()
    return encoded


def decoded(message: bytes, taken: Signature) -> Any:
    return messages.decode(*messages.parse(message), taken)


def test_requests_that_are_alike_are_parsed_once_and_have_values_of_their_own() -> None:
    taken = signature()
    first, second = decoded(request([1, 2]), taken), decoded(request([3, 4]), taken)
    assert messages.parse(request([5, 6]))[0] is messages.parse(request([7, 8]))[0]
    assert [asked.arrays[0].tolist() for asked in (first, second)] == [[[1, 2]], [[3, 4]]]
    first.parameters["k"] = 8
    first.wanted = ()
    third = decoded(request([1, 2]), taken)
    assert (third.id, third.parameters, third.wanted) == ("r", {"k": 7}, [(0, True), (1, True)])


def test_what_of_a_request_is_not_alike_is_checked_each_time() -> None:
    taken = signature()
    decoded(request([1, 2]), taken)
    for raw in ([[1, 2, 3]], [[1]], [[np.nan, 1]], [[np.inf, 1]], [[1, 2], [3, 4]], []):
        with pytest.raises(InvalidRequestError):
            decoded(request(*raw), taken)
    assert decoded(request([3, 4]), taken).arrays[0].tolist() == [[3, 4]]
    assert decoded(request([1, 2, 3, 4], rows=2), taken).arrays[0].shape == (2, 2)


def test_another_version_of_the_model_takes_the_same_head_in_its_own_way() -> None:
    first, narrow = signature(), signature(TensorSpec("a", "FP32", (-1, 3)))
    two = signature(TensorSpec("b", "FP32", (-1, 2), optional=True), TensorSpec("a", "FP32", (-1, 2)))
    for _ in range(2):
        assert len(decoded(request([1, 2]), first).arrays) == 1
        with pytest.raises(InvalidRequestError, match="shape"):
            decoded(request([1, 2]), narrow)
        assert decoded(request([1, 2]), two).arrays[1].tolist() == [[1, 2]]


def test_a_faulty_head_and_a_large_one_are_not_remembered() -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="no ModelInferRequest"):
            messages.parse(b"\x0a\x01\xff" + request([1, 2]))
    large = request([1, 2], model_version="v" * 2000)
    assert messages.parse(large)[0] is not messages.parse(large)[0]


def test_an_answer_is_what_protobuf_makes_of_it() -> None:
    asked = decoded(request([1, 2]), signature())
    arrays = [np.array([[1, 2], [3, 4]], "f4"), np.array([5, 6], "i8")]
    for more in (None, {"triton_final_response": True}):
        answer = pb.ModelInferResponse.FromString(messages.encode("m", "2", asked, OUTPUTS, arrays, more))
        assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "r")
        assert [(out.name, out.datatype, list(out.shape)) for out in answer.outputs] == [
            ("y", "FP32", [2, 2]),
            ("z", "INT64", [2]),
        ]
        assert list(answer.raw_output_contents) == [array.tobytes() for array in arrays]
        assert {name: value.bool_param for name, value in answer.parameters.items()} == (more or {})
