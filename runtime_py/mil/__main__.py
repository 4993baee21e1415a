"""`python -m runtime_py.mil`: what a Core ML package computes, and a run of it without Core ML.

    python -m runtime_py.mil model.mlpackage
    python -m runtime_py.mil model.mlpackage --inputs x.npz --out y.npz
    python -m runtime_py.mil model.mlpackage --function decode --inputs x.npz --state s.npz --state-out s.npz --out y.npz

Arrays are kept by name in .npz files. Without --state, states begin as zeros.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

from export.arguments import ArgumentParser
from export.errors import ExportError, PackageError, command, one_line
from runtime_py.files import check_writable, replacing
from runtime_py.mil.graph import Function
from runtime_py.mil.program import Program
from runtime_py.mil.weights import Weights, by_scheme, weights


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, never unpickled."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("is a single array: save it by its name with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in NumPy, zipfile, zlib and tokenize, each with errors of its own
        raise ExportError(f"{path} cannot be read as an .npz file: {one_line(error)}") from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `numpy.savez`, which has no place for an array by the name of its own parameters (`file`)."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def describe(program: Program) -> list[str]:
    """Every function's interface, operations and weights, and what all weights are together."""
    blobs = weights(program.package)
    lines = []
    for name, function in program.functions.items():
        lines += [f"function {name} (iOS {function.opset})", *_describe_function(function, blobs[name])]
    return [*lines, "package", f"  weights  {_sizes(by_scheme(*blobs.values()))}"]


def _describe_function(function: Function, blobs: Weights) -> list[str]:
    lines = []
    for kind, types in (("input", function.inputs), ("state", function.states), ("output", function.outputs)):
        lines += [f"  {kind:<8} {name}: {type}" for name, type in types.items()]
    counts = sorted(function.operations.items(), key=lambda item: (-item[1], item[0]))
    return [*lines, f"  operations  {', '.join(f'{name} {count}' for name, count in counts)}", f"  weights  {_sizes(by_scheme(blobs))}"]


def _sizes(schemes: dict[str, int]) -> str:
    parts = [f"{scheme} {size:,} bytes" for scheme, size in schemes.items()]
    return f"{sum(schemes.values()):,} bytes" + (f": {', '.join(parts)}" if parts else "")


def run(program: Program, function: str, inputs: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """The outputs, and the states' values afterwards."""
    state = program.make_state(function)
    for name, value in start.items():
        state.write(name, value)
    outputs = program.run(inputs, function, state)
    return outputs, {name: state.numpy(name) for name in state.types}


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.mil", description=__doc__)
    parser.add_argument("package", type=Path, metavar="MODEL.mlpackage", help="the package to describe or run")
    parser.add_argument("--inputs", type=Path, metavar="X.npz", help="run the package on these arrays")
    parser.add_argument("--function", metavar="F", help="the function to run (default: the package's own)")
    parser.add_argument("--out", type=Path, metavar="Y.npz", help="file to write the outputs to")
    parser.add_argument("--state", type=Path, metavar="S.npz", help="values that states begin with (default: zeros)")
    parser.add_argument("--state-out", type=Path, metavar="S.npz", help="file to write the states to, after the run")
    args = parser.parse_args(argv)
    if args.inputs is None or args.out is None:
        for option in ("inputs", "function", "out", "state", "state_out"):
            if getattr(args, option) is not None:
                raise ExportError(f"--{option.replace('_', '-')}: a run needs --inputs and --out")
    for path in (args.out, args.state_out):
        if path is not None:
            check_writable(path)
    program = Program.load(args.package)
    if args.inputs is None:
        print("\n".join(describe(program)))
        return
    function = args.function or program.default
    outputs, states = run(program, function, read_arrays(args.inputs), read_arrays(args.state) if args.state else {})
    if any(not isinstance(value, np.ndarray) or value.dtype == object for value in outputs.values()):
        raise PackageError(f"function {function} returns what is no array of numbers, which an .npz file does not hold")
    write_arrays(args.out, outputs)
    if args.state_out:
        write_arrays(args.state_out, states)
    for name, value in outputs.items():
        print(f"{name}: {value.dtype}{list(value.shape)}")


if __name__ == "__main__":
    sys.exit(main())
