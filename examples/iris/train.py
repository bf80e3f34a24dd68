# /// script
# dependencies = ["scikit-learn", "skl2onnx"]
# ///
"""A scikit-learn classifier as a model repository: `uv run --script examples/iris/train.py models` writes models/iris."""

import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

data = load_iris()
x, y = data.data.astype(np.float32), data.target_names[data.target]
classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models") / "iris"
(folder / "1").mkdir(parents=True, exist_ok=True)
# target_opset: what the server takes at most is told by `podpair-inference --version`.
(folder / "1/model.onnx").write_bytes(to_onnx(classifier, x[:1], target_opset=21).SerializeToString())
(folder / "model.yaml").write_text(
    "description: an iris by sepal length, sepal width, petal length, petal width in cm\n"
)
print(f"{folder}: right for {classifier.score(x, y):.0%} of {len(x)} flowers")
