"""`classify`, the last operation of a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.registry import ANY, TensorList, operation


@operation("classify", returns=("classes", ANY))
def classify(probabilities: Tensor, classes: TensorList) -> tuple[Any, dict[Any, float]]:
    """The most probable class (of equals the first), and the probability of each. Classes are texts or int64."""
    values = probabilities.reshape(-1)
    if len(values) != len(classes) or not classes:
        raise PackageError(f"has {len(classes)} classes and {len(values)} probabilities")
    labels = [label.item() if isinstance(label, Tensor) else label for label in classes]
    return classes[int(values.argmax())], dict(zip(labels, values.tolist()))
