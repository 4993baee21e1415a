"""Attention of saved programs against its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime_py.mil.making import mb, run

RNG = np.random.default_rng(5)


def attention(q, k, v, mask=None):
    scores = np.float64(q) @ np.swapaxes(np.float64(k), -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ np.float64(v)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 1e-3)])
@pytest.mark.parametrize("batch", [(2,), (2, 3), (2, 1, 3)])
def test_attention_with_every_mask(dtype, tolerance, batch):
    q, k, v = (RNG.standard_normal((*batch, *size)).astype(dtype) for size in ((4, 6), (5, 6), (5, 7)))
    masks = {
        "seen": np.tril(np.ones((4, 5), bool), 1),
        "added": np.where(np.arange(5) < 3, RNG.standard_normal((4, 5)), -np.inf).astype(dtype),
        "row": np.broadcast_to(np.arange(5) != 2, (*[1] * (len(batch) + 1), 5)).copy(),
    }

    def build(q, k, v, seen, added, row):
        same = {"query": q, "key": k, "value": v}
        masks = (seen, added, row)
        return [mb.scaled_dot_product_attention(**same), *(mb.scaled_dot_product_attention(attn_mask=m, **same) for m in masks)]

    # The builder takes inputs of the type bool only from a comparison, so these masks are given as numbers.
    results = run(build_with_bools(build), {"q": q, "k": k, "v": v, **{n: as_number(m) for n, m in masks.items()}}, "iOS18")
    for result, mask in zip(results, (None, *masks.values()), strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, attention(q, k, v, mask), rtol=tolerance, atol=tolerance)


def as_number(mask):
    return mask.astype(np.int32) if mask.dtype == bool else mask


def build_with_bools(build):
    def wrapped(q, k, v, seen, added, row):
        return build(q, k, v, mb.cast(x=seen, dtype="bool"), added, mb.cast(x=row, dtype="bool"))

    return wrapped
