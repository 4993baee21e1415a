"""How many bytes of a package's weight files hold weights of which kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from export.mlpackage import Package, TensorType
from export.mlpackage.types import decode_type

Weights = dict[tuple[str, int], tuple[str, int]]  # (file, offset) of a blob -> (scheme, bytes)


def weights(package: Package) -> dict[str, Weights]:
    """The blobs that each function reads. Functions that share a weight read the same blob."""
    return {name: _of_function(proto) for name, proto in sorted(package.program.functions.items())}


def by_scheme(*functions: Weights) -> dict[str, int]:
    """Bytes by scheme, each blob counted once, the largest first."""
    merged: Weights = {}
    for weights in functions:
        merged.update(weights)
    sums: dict[str, int] = {}
    for scheme, size in merged.values():
        sums[scheme] = sums.get(scheme, 0) + size
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _of_function(proto: Any) -> Weights:
    """A blob that a constant expression reads belongs to the scheme of that expression, any other to its element type."""
    operations = list(_operations(proto.block_specializations[proto.opset]))
    constants = {op.outputs[0].name: op.attributes["val"] for op in operations if op.type == "const" and op.outputs}
    found: Weights = {}
    for value in constants.values():
        _add(found, value, None)
    for operation in operations:
        if operation.type == "const":
            continue
        values = dict(operation.attributes)
        for name, argument in operation.inputs.items():
            for binding in argument.arguments:
                value = binding.value if binding.WhichOneof("binding") == "value" else constants.get(binding.name)
                if value is not None:
                    values[name] = value
        scheme = _scheme(operation, values) if operation.type.startswith("constexpr_") else None
        for value in values.values():
            _add(found, value, scheme)
    return found


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _operations(nested)


def _add(found: Weights, value: Any, scheme: str | None) -> None:
    if value.WhichOneof("value") != "blobFileValue":
        return
    key = (value.blobFileValue.fileName, int(value.blobFileValue.offset))
    type = decode_type(value.type)
    if not isinstance(type, TensorType) or (key in found and scheme is None):
        return
    found[key] = (scheme or type.dtype, type.bytes)


def _scheme(operation: Any, values: dict[str, Any]) -> str:
    """A few words for a constant expression: "int4 per block of 32", "4-bit LUT"."""
    types = {name: decode_type(value.type) for name, value in values.items()}
    output = decode_type(operation.outputs[0].type)
    kind = operation.type.removeprefix("constexpr_")
    sparse = "sparse " if "sparse" in kind else ""
    if "lut" in kind and "indices" in types or "lut" in types:
        return f"{sparse}{_lut_bits(types)}-bit LUT"
    if kind == "affine_dequantize" and "quantized_data" in types:
        scale = types.get("scale")
        return f"{types['quantized_data'].dtype} per {'channel' if scale is not None and scale.shape else 'tensor'}"
    if "blockwise_shift_scale" in kind:
        data = types.get("data") or types.get("nonzero_data")
        scale = types.get("scale")
        name = data.dtype if data is not None else f"scaled {output.dtype}"
        if scale is None or isinstance(output, TensorType) and output.shape is None:
            return f"{sparse}{name}"
        return f"{sparse}{name} {_granularity(output.shape, scale.shape)}"
    return f"{kind.replace('_', ' ')} {output}".split("[")[0]


def _lut_bits(types: dict[str, Any]) -> int:
    """iOS 18 has the palette's size second to last; before, a palette of one dimension for all."""
    shape = types["lut"].shape if "lut" in types else ()
    size = shape[-2] if len(shape) > 1 else shape[0] if shape else 1
    return max(1, math.ceil(math.log2(size))) if size else 0


def _granularity(shape: tuple[int, ...], scale: tuple[int, ...]) -> str:
    if len(shape) != len(scale) or 0 in scale:
        return "per block"
    blocks = [size // parts for size, parts in zip(shape, scale)]
    whole = [block == size for block, size in zip(blocks, shape)]
    if all(whole):
        return "per tensor"
    if all(block in (1, size) for block, size in zip(blocks, shape)):
        return "per channel"
    return "per block of " + " x ".join(str(block) for block, all_of_it in zip(blocks, whole) if block != 1 and not all_of_it)
