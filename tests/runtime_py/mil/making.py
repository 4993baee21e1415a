"""Small Core ML packages for tests: a program written with coremltools' builder, saved, and run by the interpreter."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.quiet import quiet
from runtime_py.mil import Program, State

with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import get_new_symbol, types

gc.freeze()  # every conversion collects garbage: half a second, unless what the imports have made is passed over

__all__ = ["ct", "get_new_symbol", "mb", "run", "save", "types"]

DTYPES = {
    np.dtype(np.float16): types.fp16,
    np.dtype(np.float32): types.fp32,
    np.dtype(np.int32): types.int32,
    np.dtype(np.bool_): types.bool,
    np.dtype(np.int16): types.int16,
    np.dtype(np.uint16): types.uint16,
    np.dtype(np.int8): types.int8,
    np.dtype(np.uint8): types.uint8,
}


def save(
    build: Callable[..., Any],
    inputs: dict[str, np.ndarray],
    path: Path,
    opset: str = "iOS18",
    shapes: dict[str, Sequence[Any]] | None = None,
    states: dict[str, np.ndarray] | None = None,
) -> Path:
    """Save the program `build(**inputs, **states)` as it is written: no optimization pass runs.

    `shapes` replaces the declared shape of an input (`get_new_symbol()` is coremltools' unknown size). Inputs and outputs keep the
    element types of the program.
    """
    specs = [mb.TensorSpec((shapes or {}).get(n, a.shape), dtype=DTYPES[a.dtype]) for n, a in inputs.items()]
    specs += [mb.StateTensorSpec(a.shape, dtype=DTYPES[a.dtype]) for a in (states or {}).values()]
    names = [*inputs, *(states or {})]
    scope: dict[str, Any] = {"build": build}  # the builder reads the names of a function's parameters
    exec(f"def program({', '.join(names)}): return build({', '.join(f'{n}={n}' for n in names)})", scope)
    target = getattr(ct.target, opset)
    with quiet():
        program = mb.program(input_specs=specs, opset_version=target)(scope["program"])
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def run(
    build: Callable[..., Any], inputs: dict[str, np.ndarray], opset: str = "iOS18", state: State | None = None, **options: Any
) -> list[np.ndarray]:
    """Save such a program, run it on `inputs`, and return its outputs in their order."""
    with tempfile.TemporaryDirectory() as folder:
        program = Program.load(save(build, inputs, Path(folder) / "model.mlpackage", opset, **options))
        main = program.functions["main"]
        outputs = program.run(inputs, state=state or program.make_state())
        return [outputs[name] for name in main.outputs]
