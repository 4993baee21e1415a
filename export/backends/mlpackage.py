"""Reading a Core ML package back: its weights by scheme and value, its state writes, the memory that its activations take.

This reads the artifact with this project's own reader, not what coremltools believes it wrote.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.backends.base import Artifact
from export.components import Signature
from export.errors import BackendError, RecipeError
from export.mlpackage import DTYPES, Package, StateType, TensorType
from export.mlpackage.dtypes import to_carrier
from export.mlpackage.types import decode_type
from export.quant.apply import Assignment
from export.quant.coverage import StoredWeight
from export.quant.recipe import SCHEMES, Scheme
from export.quant.rounding import Grid, dequantize, least_scale

COMPRESSED = "constexpr_blockwise_shift_scale"
FLOATS = {"fp32": 2**-24, "fp16": 2**-11}  # element type -> largest relative rounding of a value that it stores
SMALLEST_HALF = 2**-25  # half the distance of float16's numbers around 0
CACHES = ("keys", "values")  # names of a decoder's buffers that are states
REPORT = "this is a fault of the converter, please report it"
SLACK = 1 + 2**-10  # of a bound in scales: the scale itself was rounded, the quotient computed in float32


@dataclasses.dataclass(frozen=True)
class Constant:
    """A weight in a package: integers with scales, or floats."""

    name: str
    scheme: str
    shape: tuple[int, ...]
    bytes: int
    data: Any  # the protobuf's Value of the integers, or of the floats
    scale: Any = None  # of the scales

    @property
    def place(self) -> tuple:
        """What tells two constants apart: where their parts are."""
        return _place(self.data), self.scale is not None and _place(self.scale)


def read_package(path: Path) -> Artifact:
    """Weights, operations and memory of a package, over all of its functions.

    Raises:
        PackageError: the package is damaged.
        BackendError: a function reads a state that it never writes.
    """
    package = Package.open(path)
    check_states(package)
    activations = max((activation_bytes(block(function)) for function in package.program.functions.values()), default=0)
    states = max((_state_bytes(function) for function in package.program.functions.values()), default=0)
    return Artifact(
        stored=tuple(StoredWeight(c.scheme, c.shape, c.bytes) for c in weights_of(package)),
        delegate="coreml",
        delegated=1.0,  # Core ML runs all of it; on which unit is the device's choice
        operators=(),
        arena_bytes=activations + states,
        packed_bytes=0,
    )


def describe_package(path: Path, signature: Signature, about: Mapping[str, str]) -> None:
    """Write descriptions of inputs, outputs and states, and `about` (description, version, license, and any others), into a package."""
    package = Package.open(path)
    specs = {spec.name: spec.description for spec in (*signature.inputs, *signature.outputs)}
    description = package.model.description
    for owner in (description, *description.functions):
        for feature in (*owner.input, *owner.output):
            feature.shortDescription = specs.get(feature.name, "")
        for state in owner.state:
            state.shortDescription = "key/value cache, zeros at first"
    metadata = description.metadata
    metadata.shortDescription, metadata.versionString = about["description"], about["version"]
    metadata.license = about["license"]
    for key in sorted(set(about) - {"description", "version", "license"}):
        metadata.userDefined[key] = about[key]
    package.model_file.write_bytes(package.model.SerializeToString())


def block(function: Any) -> Any:
    """The operations of a function."""
    return function.block_specializations[function.opset]


def weights_of(package: Package) -> list[Constant]:
    """Every weight of every function, those that functions share once. Numbers and shapes, which a program is full of, are none."""
    found: dict[Any, Constant] = {}
    for function in package.program.functions.values():
        for constant in function_weights(function):
            found.setdefault(constant.place, constant)
    return list(found.values())


def function_weights(function: Any) -> list[Constant]:
    """The weights of one function."""
    operations = block(function).operations
    values = {o.outputs[0].name: o.attributes["val"] for o in operations if o.type == "const"}
    found = [_compressed(o, values) for o in operations if o.type.startswith("constexpr_")]
    inside = {  # names of the parts of compressed weights
        binding.name
        for o in operations
        if o.type.startswith("constexpr_")
        for argument in o.inputs.values()
        for binding in argument.arguments
    }
    for name, value in values.items():
        type = decode_type(value.type)
        if name in inside or not isinstance(type, TensorType) or type.dtype not in FLOATS or not type.shape or None in type.shape:
            continue
        if math.prod(type.shape) > 1:  # type: ignore[arg-type]
            found.append(Constant(name, type.dtype, type.shape, type.bytes, value))  # type: ignore[arg-type]
    return found


def _compressed(operation: Any, values: dict[str, Any]) -> Constant:
    """The weight that a constant expression stands for."""
    parts = {name: _value(argument.arguments[0], values) for name, argument in operation.inputs.items()}
    if operation.type != COMPRESSED or parts.get("data") is None or parts.get("scale") is None or "offset" in parts:
        raise BackendError(f"the package holds weights as {operation.type} with {', '.join(parts)}, which no recipe asks for")
    data, scale = decode_type(parts["data"].type), decode_type(parts["scale"].type)
    rows, columns = data.shape  # type: ignore[union-attr,misc]
    groups = scale.shape[1]  # type: ignore[union-attr,index]
    scheme = f"{data.dtype} in groups of {columns // groups}"  # type: ignore[union-attr]
    for known in SCHEMES.values():
        if known.quantized and data.dtype == f"int{known.bits}" and scale.shape == (rows, columns // (known.group_size or columns)):  # type: ignore[union-attr]
            scheme = known.name
    return Constant(operation.outputs[0].name, scheme, (rows, columns), data.bytes + scale.bytes, parts["data"], parts["scale"])  # type: ignore[arg-type]


def _value(binding: Any, values: dict[str, Any]) -> Any:
    """The constant that an operation's argument is, by name or on the spot; None for what is none."""
    return binding.value if binding.WhichOneof("binding") == "value" else values.get(binding.name)


def _place(value: Any) -> Any:
    """What tells two constants apart: their place in the weight file, or their value."""
    if value.WhichOneof("value") == "blobFileValue":
        return value.blobFileValue.fileName, value.blobFileValue.offset
    return value.SerializeToString()


def check_states(package: Package) -> None:
    """Every state that a function has is written by it.

    Raises:
        BackendError: names the state. A converter that drops the write leaves a model that forgets.
    """
    for name, function in package.program.functions.items():
        states = {value.name for value in function.inputs if isinstance(decode_type(value.type), StateType)}
        writes = collections.Counter(o.inputs["input"].arguments[0].name for o in block(function).operations if o.type == "write_state")
        for state in sorted(states):
            if writes[state] != 1:
                times = "never writes" if not writes[state] else f"writes {writes[state]} times"
                raise BackendError(f"the package's function {name} {times} its state {state}: the converter lost the cache's update")


def activation_bytes(body: Any) -> int:
    """The most bytes of results that are alive at once when a block runs in its order, at declared sizes (unknown ones as 1)."""
    last: dict[str, int] = {}
    for index, operation in enumerate(body.operations):
        for argument in operation.inputs.values():
            last |= {binding.name: index for binding in argument.arguments}
    last |= {name: len(body.operations) for name in body.outputs}
    alive, most, ends = 0, 0, collections.Counter[int]()
    for index, operation in enumerate(body.operations):
        if operation.type == "const" or operation.type.startswith("constexpr_"):
            continue
        for output in operation.outputs:
            type = decode_type(output.type)
            size = type.bytes if isinstance(type, TensorType) else 0
            alive += size
            ends[last.get(output.name, index)] += size
        most = max(most, alive)
        alive -= ends.pop(index, 0)
    return most


def _state_bytes(function: Any) -> int:
    types = (decode_type(value.type) for value in function.inputs)
    return sum(type.wrapped.bytes for type in types if isinstance(type, StateType))


def check_weights(path: Path, twin: nn.Module, assignments: list[Assignment]) -> None:
    """Every function of a package has every weight of `twin`, as it was before rounding, within half a step of its scheme (a calibrated
    one: its very integers and scales), no compressed weight beside those, and every cache of `twin` as a state.

    The converter names constants as it likes, and may transpose them or repeat a vector, so a weight is looked for among all
    constants that could hold it: first those that no other weight was found in.

    Raises:
        RecipeError: names the weight that no constant comes close to, or the constant that is nobody's.
        BackendError: a state is missing.
    """
    package = Package.open(path)
    schemes = {f"{a.layer}.weight": a.scheme for a in assignments}
    grids = {f"{a.layer}.weight": a.grid for a in assignments}
    weights = [(source, weight) for source, weight in sources(twin) if source in schemes or not _is_uniform(weight)]
    known: dict[tuple, bool] = {}  # functions share constants
    for name, function in package.program.functions.items():
        _check_caches(name, function, twin)
        unclaimed, claimed = function_weights(function), []
        for source, weight in weights:
            where = f"{path.stem}, function {name}"
            constant = _find(package, (*unclaimed, *claimed), source, weight, schemes.get(source), grids.get(source), known, where)
            if constant in unclaimed:
                unclaimed.remove(constant)
                claimed.append(constant)
        strangers = [constant.name for constant in unclaimed if constant.scale is not None]
        if strangers:
            raise RecipeError(f"{path.stem}, function {name}: the compressed constant {strangers[0]} is no weight of the model; {REPORT}")


def _is_uniform(weight: Tensor) -> bool:
    """Whether a weight is one number throughout: a norm of ones, a bias of zeros. The converter drops it or stores the number."""
    return bool((weight == weight.reshape(-1)[0]).all())


def _find(
    package: Package,
    constants: Sequence[Constant],
    source: str,
    weight: Tensor,
    scheme: Scheme | None,
    grid: Grid | None,
    known: dict,
    where: str,
) -> Constant:
    """The constant that holds a weight; RecipeError where there is none."""
    quantized = scheme is not None and scheme.quantized
    kinds = (scheme.name,) if quantized else tuple(FLOATS)  # type: ignore[union-attr]
    candidates = [c for c in constants if c.scheme in kinds and _could_hold(c, tuple(weight.shape))]
    needed = least_scale(weight, scheme) if quantized and candidates else None  # type: ignore[arg-type]
    for constant in candidates:
        key = (source, constant.place)
        if key not in known:
            if grid is not None:
                known[key] = _holds_grid(package, constant, grid)
            elif needed is not None:
                known[key] = _holds_compressed(package, constant, weight, needed)
            else:
                known[key] = _holds(package, constant, weight)
        if known[key]:
            return constant
    found = f"none of the {len(candidates)} constants of its size comes close" if candidates else "no constant has its size"
    raise RecipeError(f"{where}: the weight {source} is not in the package as {' or '.join(kinds)}: {found}; {REPORT}")


def _check_caches(name: str, function: Any, twin: nn.Module) -> None:
    """A function's states are the caches of the decoder that it was made from."""
    caches = [tuple(b.shape) for n, b in twin.named_buffers() if n.rpartition(".")[2] in CACHES]
    types = (decode_type(value.type) for value in function.inputs)
    states = [type.wrapped.shape for type in types if isinstance(type, StateType)]
    if collections.Counter(caches) != collections.Counter(states):
        raise BackendError(f"the package's function {name} has {len(states)} states, and the decoder {len(caches)} caches; {REPORT}")


def _could_hold(constant: Constant, weight: tuple[int, ...]) -> bool:
    """Whether a constant's shape may be a weight's: the same; of floats the same sizes but for ones, or its rows repeated."""
    if constant.scale is not None:
        return constant.shape == weight
    stored, wanted = [d for d in constant.shape if d > 1], [d for d in weight if d > 1]
    return sorted(stored) == sorted(wanted) or stored[len(stored) - len(wanted) :] == wanted


def sources(twin: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a twin: its parameters, and the buffers that come from the checkpoint; numbers alone are none."""
    for name, tensor in twin.state_dict(keep_vars=False).items():
        if tensor.is_floating_point() and tensor.numel() > 1:
            yield name, tensor


def _holds(package: Package, constant: Constant, weight: Tensor) -> bool:
    """Whether a float constant is this weight, rounded."""
    _, data = package.values.tensor(constant.data)

    def bound(values: Tensor) -> Tensor:
        return FLOATS[constant.scheme] * values.abs() * SLACK + (SMALLEST_HALF if constant.scheme == "fp16" else 0)

    stored, weight = to_carrier(data.reshape(-1)[[0, -1]], DTYPES[constant.scheme]), weight.squeeze()
    corners = weight.reshape(-1)[[0, -1]]  # whichever way the axes stand, the first and the last value stay so
    if not bool(((stored - corners).abs() <= bound(corners)).all()):
        return False
    stored = to_carrier(data, DTYPES[constant.scheme]).squeeze()
    if stored.ndim > weight.ndim:  # a vector for every row
        return bool(((stored - weight).abs() <= bound(weight)).all())
    orders = (stored.permute(order) for order in itertools.permutations(range(stored.ndim)))
    return any(bool(((turned - weight).abs() <= bound(weight)).all()) for turned in orders if turned.shape == weight.shape)


def _holds_grid(package: Package, constant: Constant, grid: Grid) -> bool:
    """Whether a compressed constant is a calibrated weight: the same integers and scales."""
    scale = torch.from_numpy(package.values.tensor(constant.scale)[1].astype(np.float32))
    integers = torch.from_numpy(np.ascontiguousarray(package.values.tensor(constant.data)[1]))
    return torch.equal(scale, grid.scale.float()) and torch.equal(integers.to(torch.int8), grid.integers)


def _holds_compressed(package: Package, constant: Constant, weight: Tensor, needed: Tensor) -> bool:
    """The same of integers [O, I] with scales [O, groups], none of which may be larger than is `needed`."""
    scale = torch.from_numpy(package.values.tensor(constant.scale)[1].astype(np.float32))
    rows, groups = scale.shape
    if not bool((scale <= needed * SLACK).all()):
        return False
    _, data = package.values.tensor(constant.data)
    bound = (scale * (SLACK / 2))[..., None].expand(rows, groups, weight.shape[1] // groups).reshape(weight.shape)
    return bool(((dequantize(torch.from_numpy(np.ascontiguousarray(data)), scale) - weight).abs() <= bound).all())
