"""GPTQ: integers whose products with the inputs that were seen are close, not integers close to the weights.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv 2210.17323). Columns are
rounded one after another, the most used input first, and each one's error is spread over those that are still to come, by the inverse
of the inputs' Gram matrix H. The scales are fixed before: of each group the one that loses least, each column counted by H's diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.quant.recipe import Scheme
from export.quant.rounding import LEAST_SCALE, least_scale

DAMPING = 0.01  # of H's mean diagonal, added to the diagonal: directions that were hardly seen
BLOCK = 128  # columns whose errors are carried on at once
SHRINKS = 40  # scales tried for each group, from the largest weight's down to 40 % of it
LEAST_SHRINK = 0.4


def gptq(weight: Tensor, gram: Tensor, scheme: Scheme, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight [O, I] and inputs' mean x x^T [I, I] -> integers int8 [O, I] and scales [O, I / group] of `scale_dtype`."""
    weight = weight.detach().float().clone()
    columns = weight.shape[1]
    group = scheme.group_size or columns
    gram = gram.double()
    diagonal = gram.diagonal()
    damping = DAMPING * diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    scale = search_scales(weight, (diagonal + damping).float(), scheme, scale_dtype)
    order = torch.argsort(diagonal, descending=True, stable=True)
    weight = weight[:, order]
    hessian = gram[order][:, order] + damping * torch.eye(columns, dtype=torch.float64)
    # The upper Cholesky factor of H^-1: row i holds how column i's error goes to the columns behind it.
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    column_scale = scale.float()[:, order // group]  # [O, I]
    half = 2 ** (scheme.bits - 1)
    integers = torch.empty_like(weight)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty(weight.shape[0], end - start)
        for i in range(start, end):
            integers[:, i] = torch.clamp(torch.round(weight[:, i] / column_scale[:, i]), -half, half - 1)
            error = (weight[:, i] - integers[:, i] * column_scale[:, i]) / spread[i, i]
            weight[:, i:end] -= error[:, None] * spread[i, i:end]
            errors[:, i - start] = error
        weight[:, end:] -= errors @ spread[start:end, end:]
    return integers[:, torch.argsort(order)].to(torch.int8), scale


def search_scales(weight: Tensor, importance: Tensor, scheme: Scheme, scale_dtype: torch.dtype) -> Tensor:
    """Scales [O, I / group]: of each group the one with the least squared error, columns weighted by `importance` [I]."""
    largest = least_scale(weight, scheme)  # [O, groups]
    rows, groups = largest.shape
    grouped, weights = weight.reshape(rows, groups, -1), importance.reshape(groups, -1)
    half = 2 ** (scheme.bits - 1)
    best = torch.full_like(largest, torch.inf)
    chosen = largest.to(scale_dtype)
    for shrink in torch.linspace(1, LEAST_SHRINK, SHRINKS):
        scale = (largest * shrink).clamp(min=LEAST_SCALE).to(scale_dtype)
        step = scale.float()[..., None]
        error = ((torch.clamp(torch.round(grouped / step), -half, half - 1) * step - grouped).square() * weights).sum(-1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
    return chosen
