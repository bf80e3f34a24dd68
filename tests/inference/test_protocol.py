"""The V2 protocol against the real server: metadata, JSON, binary tensors, versions, outputs."""

import json
from typing import Any

import numpy as np
import pytest


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def binary(document: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and raw tensors, and its headers."""
    header = json.dumps(document).encode()
    return header + b"".join(tensors), {"Inference-Header-Content-Length": str(len(header))}


def raw_input(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def test_the_server_says_what_it_is(served: Any) -> None:
    document = served.get("/v2").json
    assert document["name"] == "podpair-inference"
    assert {"binary_tensor_data", "generate", "model_repository", "statistics"} <= set(document["extensions"])


def test_it_is_alive_and_ready(served: Any) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/plus/versions/1/ready"):
        assert served.get(path).status == 200


def test_metadata_has_the_outputs_as_they_are_served(served: Any) -> None:
    document = served.get("/v2/models/digits").json
    assert document["platform"] == "onnxruntime_onnx"
    assert document["versions"] == ["1"]
    assert document["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    assert document["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


def test_without_a_model_yaml_the_model_s_own_metadata_is_enough(served: Any) -> None:
    document = served.get("/v2/models/mixed").json
    assert [(t["name"], t["datatype"], t["shape"]) for t in document["inputs"]] == [
        ("text", "BYTES", [-1]),
        ("count", "INT64", [-1, 2]),
        ("flag", "BOOL", [-1]),
    ]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [1.0, 2, 3.0, 4]])
def test_json_data_may_be_flat_or_nested(served: Any, data: list[Any]) -> None:
    answer = served.post("/v2/models/plus/infer", {"inputs": [tensor("x", "FP32", [2, 2], data)]})
    assert answer.json["outputs"] == [tensor("y", "FP32", [2, 2], [3, 4, 5, 6])]
    assert answer.headers["Content-Type"] == "application/json"


def test_an_answer_keeps_the_id_and_says_how_long_it_took(served: Any) -> None:
    answer = served.post("/v2/models/plus/infer", {"id": "r-1", "inputs": [tensor("x", "FP32", [1, 1], [1])]})
    assert (answer.json["id"], answer.json["model_name"]) == ("r-1", "plus")
    assert float(answer.headers["podpair-inference-ms"]) > 0
    assert "id" not in served.post("/v2/models/plus/infer", {"inputs": [tensor("x", "FP32", [1, 1], [1])]}).json


def test_the_highest_version_answers_unless_another_is_asked(served: Any) -> None:
    body = {"inputs": [tensor("x", "FP32", [1, 1], [1])]}
    for path, version, value in [("", "2", 3.0), ("/versions/1", "1", 2.0), ("/versions/2", "2", 3.0)]:
        document = served.post(f"/v2/models/plus{path}/infer", body).json
        assert (document["model_version"], document["outputs"][0]["data"]) == (version, [value])


def test_inputs_come_in_any_order_and_of_any_type(served: Any) -> None:
    text = tensor("text", "BYTES", [2], ["é", ""])
    count = tensor("count", "INT64", [2, 2], [1, -2, 3, 2**53 + 1])
    flag = tensor("flag", "BOOL", [2], [True, False])
    document = served.post("/v2/models/mixed/infer", {"inputs": [flag, text, count]}).json
    outputs = {output["name"]: output["data"] for output in document["outputs"]}
    assert outputs == {"text_out": ["é", ""], "count_out": [1, -2, 3, 2**53 + 1], "flag_out": [True, False]}


def test_only_the_outputs_that_are_asked_for_in_their_order(served: Any) -> None:
    pixels = tensor("pixels", "FP32", [1, 64], [0.0] * 64)
    body = {"inputs": [pixels], "outputs": [{"name": "label"}]}
    assert [o["name"] for o in served.post("/v2/models/digits/infer", body).json["outputs"]] == ["label"]
    body["outputs"] = [{"name": "label"}, {"name": "probabilities"}]
    names = [o["name"] for o in served.post("/v2/models/digits/infer", body).json["outputs"]]
    assert names == ["label", "probabilities"]


def test_binary_tensors_in_and_out(served: Any) -> None:
    x = np.arange(6, dtype="<f4").reshape(2, 3)
    document = {"inputs": [raw_input("x", "FP32", [2, 3], x.nbytes)], "parameters": {"binary_data_output": True}}
    answer = served.post("/v2/models/plus/infer", *binary(document, x.tobytes()))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    end = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.body[:end])["outputs"]
    assert output["parameters"] == {"binary_data_size": 24}
    assert "data" not in output
    np.testing.assert_array_equal(np.frombuffer(answer.body[end:], "<f4").reshape(2, 3), x + 2)


def test_json_and_binary_tensors_mix_in_one_request_and_one_answer(served: Any) -> None:
    text = b"\3\0\0\0\xc3\xa9!" + b"\0\0\0\0"
    document = {
        "inputs": [
            raw_input("text", "BYTES", [2], len(text)),
            tensor("count", "INT64", [2, 2], [1, 2, 3, 4]),
            raw_input("flag", "BOOL", [2], 2),
        ],
        "outputs": [
            {"name": "text_out", "parameters": {"binary_data": True}},
            {"name": "flag_out", "parameters": {"binary_data": False}},
            {"name": "count_out", "parameters": {"binary_data": True}},
        ],
    }
    answer = served.post("/v2/models/mixed/infer", *binary(document, text, b"\0\1"))
    end = int(answer.headers["Inference-Header-Content-Length"])
    outputs = json.loads(answer.body[:end])["outputs"]
    assert [o["name"] for o in outputs] == ["text_out", "flag_out", "count_out"]
    assert outputs[1]["data"] == [False, True]
    assert answer.body[end:] == text + np.array([1, 2, 3, 4], "<i8").tobytes()


def test_a_model_without_a_batch_dimension_is_served_one_request_at_a_time(served: Any) -> None:
    body = {"inputs": [tensor("x", "FP32", [2, 2], [1, 2, 3, 4])]}
    assert served.post("/v2/models/fixed/infer", body).json["outputs"][0]["data"] == [2, 3, 4, 5]


def test_nan_passes_where_the_model_allows_it(served: Any) -> None:
    x = np.array([[np.nan], [1]], "<f4")
    document = {"inputs": [raw_input("x", "FP32", [2, 1], 8)], "parameters": {"binary_data_output": True}}
    answer = served.post("/v2/models/nan/infer", *binary(document, x.tobytes()))
    np.testing.assert_array_equal(np.frombuffer(answer.body[-8:], "<f4"), [np.nan, 2])


def test_metrics_have_the_names_and_buckets_that_dashboards_expect(served: Any) -> None:
    served.post("/v2/models/plus/infer", {"inputs": [tensor("x", "FP32", [1, 1], [1])]})
    served.post("/v2/models/plus/infer", b"{")
    text = served.get("/metrics").body.decode()
    buckets = [
        line.split('le="')[1].split('"')[0]
        for line in text.splitlines()
        if "request_duration_seconds_bucket" in line and 'model="plus"' in line
    ]
    assert buckets == ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "+Inf"]
    for expected in (
        'inference_request_duration_seconds_count{model="plus"}',
        'inference_errors_total{reason="invalid"}',
        'inference_queue_depth{model="plus"} 0.0',
        'inference_batch_size_bucket{le="1.0",model="plus"}',
    ):
        assert expected in text
