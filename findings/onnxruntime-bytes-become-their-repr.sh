#!/usr/bin/env bash
# onnxruntime 1.32.0 (Python, CPU) with numpy 2.4.6 and onnx 1.23.2.
#
# A string tensor that is fed as an object array of `bytes`, which is what V2's BYTES are (and what numpy object arrays from
# tritonclient or from HDF5 hold), is taken without a warning as the text of Python's repr: the model sees "b'cat'". A vocabulary
# look-up then finds nothing and answers its default.
#
# Seen:
#   str objects    ['cat'] -> [1]
#   bytes objects  ["b'cat'"] -> [-1]
#
# Needs python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > run.py <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

nodes = [
    helper.make_node("Identity", ["x"], ["seen"]),
    helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["cat"], values_int64s=[1]),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
    [helper.make_tensor_value_info("seen", TensorProto.STRING, ["n"]), helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())


def run(array):
    seen, y = session.run(None, {"x": array})
    return seen.tolist(), y.tolist()


found = {
    "str objects": run(np.array(["cat"], object)),
    "bytes objects": run(np.array([b"cat"], object)),
}
for name, (seen, y) in found.items():
    print(f"{name:14} {seen} -> {y}")
assert found == {
    "str objects": (["cat"], [1]),
    "bytes objects": (["b'cat'"], [-1]),
}
PY
venv/bin/python run.py
