"""`cast`: the one operation whose result's element type is an argument."""

from __future__ import annotations

import torch
from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from export.mlpackage.dtypes import rounded
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, operation

TYPES = ("int32", "fp16", "fp32", "bool")
TYPES_IOS17 = (*TYPES, "int8", "uint8", "int16", "uint16")
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1  # of int32


@operation("cast", returns=ANY, exact=True)
def cast(x: Tensor, dtype: str, call: Call) -> Tensor:
    """Floats are truncated to integers; integers wrap; what is not 0 is True."""
    declared = call.outputs[0].dtype  # type: ignore[union-attr]
    known = TYPES_IOS17 if call.opset >= 17 else TYPES
    if dtype not in known:
        raise PackageError(f"casts to {dtype!r}: {', '.join(known)} are known to its operator set")
    if dtype != declared:
        raise PackageError(f"casts to {dtype!r}, and its output is declared as {declared}")
    target = DTYPES[dtype]
    if dtype == "bool":
        return x != 0
    if x.is_floating_point() and not target.floating:
        # As Apple's processors: what int32 cannot hold becomes its nearest end, NaN becomes 0, and a narrower type wraps that.
        x = torch.nan_to_num(x.double(), nan=0.0).clamp(LOWEST, HIGHEST).long()
    return rounded(x.to(target.carrier) if target.floating else x, target)
