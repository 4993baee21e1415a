"""The namespace of this project's operators: each is defined in PyTorch (eager value, shape, ExecuTorch's out variant) and in C++.

The PyTorch side makes a graph with the operator traceable and computes it anywhere; a phone runs the C++ side (`operators.cpp`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NAMESPACE = "mobile_videogpt"
_library = torch.library.Library(NAMESPACE, "DEF")


def define(
    name: str, arguments: str, eager: Callable[..., Tensor], shape: Callable[..., Tensor], results: str = "(a!)"
) -> Callable[..., Tensor]:
    """Define `mobile_videogpt::NAME(ARGUMENTS) -> Tensor` and its `.out` variant; the operator to call.

    Args:
        arguments: as a schema writes them, for example "Tensor x, bool backward".
        eager: what the operator computes, in plain PyTorch.
        shape: an empty tensor of the result's shape and dtype, from the same arguments.
        results: the result's letter in the `.out` variant, one that no argument has which the operator writes to.
    """

    def out_variant(*inputs: object, out: Tensor) -> Tensor:
        return out.copy_(eager(*inputs))

    _library.define(f"{name}({arguments}) -> Tensor")
    _library.define(f"{name}.out({arguments}, *, Tensor{results} out) -> Tensor{results}")
    _library.impl(name, eager, "CompositeExplicitAutograd")
    _library.impl(f"{name}.out", out_variant, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shape, lib=_library)
    return getattr(getattr(torch.ops, NAMESPACE), name)
