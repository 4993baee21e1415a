"""States: tensors that outlive a call. A value that was read stays what it was when the state is written later."""

from __future__ import annotations

from torch import Tensor

from runtime_py.mil.evaluate import StateCell as State
from runtime_py.mil.registry import operation


@operation("read_state", returns="input", exact=True)
def read_state(input: State) -> Tensor:
    return input.read()


@operation("write_state", returns=(), same=("input", "data"))
def write_state(input: State, data: Tensor) -> tuple[()]:
    """Has no output: what comes after it in the program reads the new value."""
    input.write(data)
    return ()


@operation("coreml_update_state", returns="value", same=("state", "value"), exact=True)
def coreml_update_state(state: State, value: Tensor) -> Tensor:
    """`write_state` and then `read_state`, which is how coremltools saves it."""
    state.write(value)
    return state.read()
