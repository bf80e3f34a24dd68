"""Models of scikit-learn as skl2onnx writes them by default: classifiers with their maps, regressors, clusters, pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]

MAKERS: dict[str, Callable[[], Any]] = {
    "logistic_regression": lambda: LogisticRegression(max_iter=500).fit(X, Y),
    "tree_with_names": lambda: DecisionTreeClassifier(max_depth=3, random_state=1).fit(X, NAMES),
    "random_forest": lambda: RandomForestClassifier(10, random_state=1).fit(X, Y),
    "gradient_boosting": lambda: GradientBoostingClassifier(n_estimators=5, random_state=1).fit(X, Y),
    "naive_bayes": lambda: GaussianNB().fit(X, Y),
    "neighbours": lambda: KNeighborsClassifier(3).fit(X, NAMES),
    "support_vectors": lambda: SVC(random_state=1).fit(X, Y),
    "perceptron_of_sklearn": lambda: MLPClassifier(8, max_iter=50, random_state=1).fit(X, Y),
    "pipeline": lambda: make_pipeline(StandardScaler(), PolynomialFeatures(), LogisticRegression(max_iter=500)).fit(
        X, Y
    ),
    "linear_regression": lambda: LinearRegression().fit(X, X.sum(axis=1)),
    "forest_regression": lambda: RandomForestRegressor(10, random_state=1).fit(X, X.sum(axis=1)),
    "gaussian_process": lambda: GaussianProcessRegressor().fit(X[::10], X[::10].sum(axis=1)),
    "clusters": lambda: KMeans(3, random_state=1, n_init=1).fit(X),
    "components": lambda: PCA(2).fit(X),
}


def save(repository: Path, name: str) -> None:
    """Write a model into a repository."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(to_onnx(MAKERS[name](), X[:1]).SerializeToString())


def request(draw: np.random.Generator) -> dict[str, Any]:
    """One to three flowers that nobody has seen."""
    rows = X[draw.integers(0, len(X), int(draw.integers(1, 4)))]
    return {"X": (rows + draw.normal(0, 0.3, rows.shape)).astype(np.float32)}
