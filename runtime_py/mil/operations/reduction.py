"""Reductions along axes. No axes given means all of them; an empty list of axes means that nothing is reduced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, Ints, operation

Reduce = Callable[[Tensor, list[int], bool], Tensor]  # of a tensor, axes and whether they stay with size 1


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)  # integers stay what they are


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """torch.prod takes one axis at a time; from the last on, so that the others keep their numbers."""
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


# Of integers too these are integers.
WITHIN_INTEGERS: dict[str, Reduce] = {
    "reduce_l1_norm": lambda x, axes, keep: _sum(torch.abs(x), axes, keep),
    "reduce_prod": _product,
    "reduce_sum": _sum,
    "reduce_sum_square": lambda x, axes, keep: _sum(torch.square(x), axes, keep),
}
CHOICES: dict[str, Reduce] = {"reduce_max": torch.amax, "reduce_min": torch.amin}
# Of integers these are computed as floats, and truncated.
FLOATS: dict[str, Reduce] = {
    "reduce_l2_norm": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "reduce_log_sum_exp": torch.logsumexp,
    "reduce_mean": torch.mean,
}


def _register(name: str, reduce: Reduce, floats: bool, exact: bool) -> None:
    @operation(name, returns="x", exact=exact)
    def compute(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        dtype = x.dtype
        if floats and not x.is_floating_point():
            x = x.double()
        if axes is None:
            axes = list(range(x.ndim))
        elif not axes:  # for PyTorch this would be all axes
            x, axes, keep_dims = x.unsqueeze(-1), [-1], False
        result = reduce(x, axes, keep_dims)
        return result if result.dtype == dtype else result.long().to(dtype)


for _name, _reduce in WITHIN_INTEGERS.items():
    _register(_name, _reduce, floats=False, exact=False)
for _name, _reduce in CHOICES.items():
    _register(_name, _reduce, floats=False, exact=True)
for _name, _reduce in FLOATS.items():
    _register(_name, _reduce, floats=True, exact=False)


@operation("reduce_argmax", returns=ANY)
def reduce_argmax(x: Tensor, call: Call, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the largest element; of the first among equals."""
    _check_index(output_dtype, call)
    return torch.argmax(x, axis, keep_dims).int()


@operation("reduce_argmin", returns=ANY)
def reduce_argmin(x: Tensor, call: Call, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the smallest element; of the first among equals."""
    _check_index(output_dtype, call)
    return torch.argmin(x, axis, keep_dims).int()


def _check_index(output_dtype: str, call: Call) -> None:
    declared = call.outputs[0].dtype  # type: ignore[union-attr]
    if output_dtype.lower() != declared or declared not in ("int32", "uint16"):
        raise PackageError(f"has the output_dtype {output_dtype!r}, and its output is declared as {declared}: int32 or uint16 is possible")
