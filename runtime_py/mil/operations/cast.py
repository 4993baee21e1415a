"""`cast`: the one operation whose result's element type is an argument."""

from __future__ import annotations

from torch import Tensor

from export.errors import PackageError
from export.mlpackage import DTYPES
from export.mlpackage.dtypes import rounded
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, operation


@operation("cast", returns=ANY)
def cast(x: Tensor, dtype: str, call: Call) -> Tensor:
    """Floats are truncated to integers; what is not 0 is True."""
    declared = call.outputs[0].dtype
    if dtype not in DTYPES or dtype != declared:
        raise PackageError(f"casts to {dtype!r}, and its output is declared as {declared}")
    target = DTYPES[dtype]
    if x.is_floating_point() and not target.floating and dtype != "bool":
        x = x.trunc().long()
    return rounded(x.to(target.carrier) if dtype != "bool" else x != 0, target)
