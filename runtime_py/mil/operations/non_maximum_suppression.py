"""`non_maximum_suppression`: of boxes that overlap, the one with the highest score."""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import operation
from runtime_py.mil.sizes import checked


@operation("non_maximum_suppression", returns=("boxes", "scores", "int32", "int32"), same=("boxes", "scores"), exact=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    call: Call,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """boxes [n, b, 4] as (x, y, width, height) around a center, scores [n, b, classes] -> the chosen ones in the order of their
    scores, [n, max, 4] and [n, max, classes], their indices [n, max] and their numbers [n]; the rest is 0, and -1 in the indices.

    Since iOS 17 the boxes come last in these shapes, there is no score threshold, and the numbers are not returned. If no score
    passes the threshold, the best box alone is chosen.
    """
    new = call.opset >= 17
    if new != (score_threshold is None):
        raise PackageError("score_threshold is an input until iOS 16, and none since iOS 17")
    if new:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    n, count, classes = scores.shape
    if boxes.shape != (n, count, 4) or count == 0 or max_boxes < 1:
        raise PackageError(f"{max_boxes} of boxes of the shape {list(boxes.shape)} with scores of the shape {list(scores.shape)}")
    checked([n, max_boxes, 4 + classes])
    chosen_boxes, chosen_scores = boxes.new_zeros(n, max_boxes, 4), scores.new_zeros(n, max_boxes, classes)
    indices = torch.full((n, max_boxes), -1, dtype=torch.int32)
    numbers = torch.zeros(n, dtype=torch.int32)
    for i in range(n):
        chosen = torch.tensor(_choose(boxes[i], scores[i], iou_threshold, score_threshold, max_boxes, per_class_suppression))
        chosen_boxes[i, : len(chosen)], chosen_scores[i, : len(chosen)] = boxes[i, chosen], scores[i, chosen]
        indices[i, : len(chosen)], numbers[i] = chosen.to(torch.int32), len(chosen)
    if new:
        return chosen_boxes.transpose(1, 2), chosen_scores.transpose(1, 2), indices
    return chosen_boxes, chosen_scores, indices, numbers


def _choose(boxes: Tensor, scores: Tensor, iou: float, threshold: float | None, most: int, per_class: bool) -> list[int]:
    """Indices of the chosen among boxes [b, 4]. A box counts with its highest score, and `per_class` as of that score's class."""
    best, classes = scores.max(dim=1)
    order = torch.sort(best, descending=True, stable=True).indices
    first = int(order[0])
    if threshold is not None:
        order = order[best[order] > threshold]
    chosen: list[int] = []
    while len(order) and len(chosen) < most:
        current, order = int(order[0]), order[1:]
        chosen.append(current)
        suppressed = _overlap(boxes[current], boxes[order]) > iou
        if per_class:
            suppressed &= classes[order] == classes[current]
        order = order[~suppressed]
    return chosen or [first]


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """The intersection of a box with each of the others over their union; 0 for a box without an area."""
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(dim=1)
    area, areas = box[2:].prod(), others[:, 2:].prod(dim=1)
    return torch.where((area > 0) & (areas > 0), shared / (area + areas - shared), torch.zeros(()))
