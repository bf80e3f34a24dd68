"""V2's datatypes are the same for struct, numpy and both sides' gRPC messages."""

import struct

import pytest

from podpair.common.v2.datatypes import CONTENTS, FORMATS
from podpair.gateway.upstream.proto import v2_pb2
from podpair.inference.core.tensors import DATATYPES
from podpair.inference.grpc.proto import open_inference_pb2


@pytest.mark.parametrize("name", FORMATS)
def test_an_element_is_as_large_for_struct_as_for_numpy(name: str) -> None:
    assert struct.calcsize(f"<{FORMATS[name]}") == DATATYPES[name].itemsize


def test_all_are_named() -> None:
    assert {*FORMATS, "BYTES", "BF16"} == set(DATATYPES)
    assert set(CONTENTS) == {*FORMATS, "BYTES"} - {"FP16"}


@pytest.mark.parametrize("messages", [v2_pb2, open_inference_pb2])
def test_contents_are_fields_of_the_message(messages: object) -> None:
    fields = messages.InferTensorContents.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    assert set(CONTENTS.values()) == set(fields)
