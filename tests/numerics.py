"""What tests of graphs share: how far two tensors are apart, weights that tell every part, and running a `.pte` file."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from export.executorch_runtime import load_method
from export.quiet import quiet

DEMO = Path(__file__).parents[1] / "calibration" / "demo" / "checkpoint"


def max_error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest magnitude wanted; every value must be finite, the shapes and dtypes equal."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, (got.shape, wanted.shape, got.dtype, wanted.dtype)
    assert torch.isfinite(got).all() and torch.isfinite(wanted).all()
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30))


def rms_error(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what was wanted."""
    assert got.shape == wanted.shape and torch.isfinite(got).all()
    return float((got.double() - wanted.double()).pow(2).mean().sqrt() / wanted.double().pow(2).mean().sqrt())


def distinct_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Noise on every weight, in place: zero biases and equal norms would hide that one is missing or taken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_meta:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model


def load_pte(path: Path) -> Callable[..., Tensor]:
    """The program's method as a function of tensors; its cache, where it has one, begins empty."""
    method = load_method(path)

    def run(*inputs: Tensor) -> Tensor:
        (output,) = method([x.contiguous() for x in inputs])
        return output.clone()  # the next call may write where this output lies

    return run


@functools.cache
def define_llm_operators() -> None:
    """`torch.ops.llama` for a decoder twin that is run before it is lowered."""
    with quiet():
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
