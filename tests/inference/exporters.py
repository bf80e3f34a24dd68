"""Writes classifiers as LightGBM's users do: `exporters.py FOLDER`. Runs in an environment of its own (exporters.lock)."""

import sys
from pathlib import Path

import lightgbm
import numpy as np
import onnxmltools
from onnxmltools.convert.common.data_types import FloatTensorType

FOLDER = Path(sys.argv[1])
random = np.random.default_rng(0)
rows = random.normal(size=(200, 4)).astype(np.float32)
# Three classes, named by numbers that aren't their places.
classes = np.array([3, 5, 8])[np.digitize(rows.sum(axis=1), [-1, 1])]
model = lightgbm.LGBMClassifier(n_estimators=5, num_leaves=4, n_jobs=1, verbose=-1, deterministic=True).fit(
    rows, classes
)
for name, zipmap in (("lightgbm", True), ("lightgbm_tensor", False)):
    target = FOLDER / name / "1"
    target.mkdir(parents=True)
    exported = onnxmltools.convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, 4]))], zipmap=zipmap)
    (target / "model.onnx").write_bytes(exported.SerializeToString())
