"""Operations with nested blocks. A block reads the values outside it and the states; its inputs and outputs are its own."""

from __future__ import annotations

from typing import Any

from export.errors import PackageError
from runtime_py.mil.evaluate import Call
from runtime_py.mil.registry import ANY, Tensors, operation

MAX_ITERATIONS = 1_000_000  # of one loop: more is taken for a loop without end


@operation("cond", returns=ANY, exact=True)
def cond(pred: bool, call: Call) -> tuple[Any, ...]:
    """What the first block gives where `pred` holds, else what the second gives. The other one does not run."""
    return call.run(0 if pred else 1)


@operation("while_loop", returns=ANY, exact=True)
def while_loop(loop_vars: Tensors, call: Call) -> tuple[Any, ...]:
    """The first block says whether to go on, the second makes the next values of `loop_vars` (tensors and lists) from the last."""
    values = tuple(loop_vars)
    for _ in range(MAX_ITERATIONS):
        (go_on,) = call.run(0, values)
        if not go_on.item():
            return values
        values = call.run(1, values)
    raise PackageError(f"it has not ended after {MAX_ITERATIONS} iterations")
