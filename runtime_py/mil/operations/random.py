"""Random numbers. With a seed every call gives the same numbers (not those of Core ML, which are its own); without one, or with the
seed -1, they come from PyTorch's generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import Ints, operation


def _generator(seed: int) -> torch.Generator | None:
    return None if seed == -1 else torch.Generator().manual_seed(seed)


@operation("random_bernoulli", returns="prob", exact=True)
def random_bernoulli(shape: Ints, prob: float = 0.5, seed: int = -1) -> Tensor:
    """1 with the probability `prob`, else 0."""
    if not 0 <= prob <= 1:
        raise PackageError(f"has the probability {prob}")
    return (torch.rand(shape, generator=_generator(seed)) < prob).float()


@operation("random_categorical", returns="x")
def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """x [..., n], as `mode` says log-probabilities or probabilities of the indices, both up to a factor. `size` indices, drawn with
    replacement, as floats [..., size]."""
    if mode not in ("logits", "probs"):
        raise PackageError(f"has the mode {mode!r}: logits and probs are known")
    weights = torch.softmax(x, -1) if mode == "logits" else x
    drawn = torch.multinomial(weights.reshape(-1, x.shape[-1]), size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).float()


@operation("random_normal", returns="mean", same=("mean", "stddev"))
def random_normal(shape: Ints, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    if stddev < 0:
        raise PackageError(f"has the standard deviation {stddev}")
    return mean + stddev * torch.randn(shape, generator=_generator(seed))


@operation("random_uniform", returns="low", same=("low", "high"))
def random_uniform(shape: Ints, call: Call, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """At least `low`, below `high` (if both are equal: that)."""
    if high < low:
        raise PackageError(f"draws from [{low}, {high})")
    dtype = DTYPES[call.outputs[0].dtype].numpy  # type: ignore[union-attr]
    below = float(np.nextafter(dtype(high), dtype(low)))  # float16 would round many numbers up to `high`
    return (low + (high - low) * torch.rand(shape, generator=_generator(seed))).clamp(max=below)
