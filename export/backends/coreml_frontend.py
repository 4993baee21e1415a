"""What coremltools' PyTorch frontend needs mended for graphs that are float16 from the start, and the operator that brings
quantized weights through it.

A twin is converted in the precision that it has: nothing is cast behind its back, and what stays float32 says so in the twin.
Three of coremltools 9.0's translations would turn such a graph into float32 in places, and one fails with NumPy 2.4.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from export.ops.library import NAMESPACE, define
from export.quiet import quiet


def _dequantize(data: Tensor, scale: Tensor, bits: int) -> Tensor:
    rows, groups = scale.shape
    return (data.reshape(rows, groups, -1).to(scale.dtype) * scale[..., None]).reshape(data.shape)


blockwise_dequantize = define(
    "blockwise_dequantize",
    "Tensor data, Tensor scale, int bits",
    eager=_dequantize,
    shape=lambda data, scale, bits: scale.new_empty(data.shape),
)
"""data [O, I] int8 times scale [O, groups], each for I / groups neighbours -> [O, I] in the scale's dtype.

`bits`, 4 or 8, says how Core ML stores the data: the operator converts to `constexpr_blockwise_shift_scale`.
"""


@functools.cache
def install() -> None:
    """Put the mended translations in place, once per process."""
    with quiet():
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.frontend.torch import ops
        from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
        from coremltools.converters.mil.mil import types

    convert_promotion, convert_div = ops.promote_input_dtypes, ops.div  # of a division with rounding

    def promote(values: Any) -> Any:
        """As in PyTorch, a scalar does not widen the tensor that it meets."""
        values = list(values)
        tensors = [v for v in values if not _is_scalar(v)]
        if tensors and all(_dtype(v) == "fp16" for v in tensors):
            values = [mb.const(val=np.float16(_scalar(v))) if _is_scalar(v) and _dtype(v) != "fp16" else v for v in values]
        return convert_promotion(values)

    def cast(context: Any, node: Any, dtype: type, name: str) -> None:
        """`int(x)` and the like of a tensor with one element (coremltools calls `dtype(array)`, which NumPy 2.4 refuses)."""
        x = ops._get_inputs(context, node, expected=1)[0]
        if x.can_be_folded_to_const():
            context.add(mb.const(val=dtype(np.asarray(x.val).item()), name=node.name), node.name)
            return
        x = mb.squeeze(x=x, name=node.name + "_item") if len(x.shape) else x
        context.add(mb.cast(x=x, dtype=name, name=node.name), node.name)

    ops.promote_input_dtypes = promote
    ops._cast = cast

    @register_torch_op(override=True)
    def layer_norm(context: Any, node: Any) -> None:
        x, shape, gamma, beta, epsilon = (ops._get_inputs(context, node) + [None] * 5)[:5]
        axes = list(range(-len(shape.val), 0))
        epsilon = types.nptype_from_builtin(x.dtype)(epsilon.val)
        context.add(mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon, name=node.name))

    @register_torch_op(override=True)
    def div(context: Any, node: Any) -> None:
        inputs = ops._get_inputs(context, node)
        if len(inputs) > 2 or ops._get_kwinputs(context, node, "rounding_mode", default=[None])[0] is not None:
            convert_div(context, node)
            return
        x, y = promote(inputs)
        context.add(mb.real_div(x=x, y=y, name=node.name))

    @register_torch_op(torch_alias=[f"{NAMESPACE}::blockwise_dequantize", f"{NAMESPACE}.blockwise_dequantize"])
    def constant_expression(context: Any, node: Any) -> None:
        data, scale, bits = ops._get_inputs(context, node)
        stored = types.nptype_from_builtin({4: types.int4, 8: types.int8}[int(bits.val)])
        context.add(mb.constexpr_blockwise_shift_scale(data=data.val.astype(np.int8).astype(stored), scale=scale.val, name=node.name))

    @register_torch_op(torch_alias=[f"{NAMESPACE}::read_rows", f"{NAMESPACE}.read_rows"])
    def read(context: Any, node: Any) -> None:
        table, position, count = ops._get_inputs(context, node)
        rest = list(table.shape[1:])
        begin = mb.concat(values=[position, np.zeros(len(rest), np.int32)], axis=0)
        size = np.array([int(count.val), *rest], np.int32)
        context.add(mb.slice_by_size(x=table, begin=begin, size=size, name=node.name))

    @register_torch_op(torch_alias=[f"{NAMESPACE}::write_rows", f"{NAMESPACE}.write_rows"])
    def write(context: Any, node: Any) -> None:
        cache, rows, position = ops._get_inputs(context, node)
        wanted = types.builtin_to_string(rows.dtype)
        if cache.op is not None and cache.op.op_type == "cast":
            cache = cache.op.x  # a state is float16 always, and coremltools reads every state as float32
        rows = mb.cast(x=rows, dtype=types.builtin_to_string(cache.dtype))
        zeros, (_, heads, count, width) = np.zeros(2, np.int32), rows.shape
        begin = mb.concat(values=[zeros, position, zeros[:1]], axis=0)
        end = mb.concat(values=[np.array([1, heads], np.int32), mb.add(x=position, y=np.int32(count)), np.array([width], np.int32)], axis=0)
        written = mb.slice_update(x=cache, update=rows, begin=begin, end=end, stride=np.ones(4, np.int32))
        context.add(mb.cast(x=written, dtype=wanted, name=node.name))


def _dtype(value: Any) -> str:
    from coremltools.converters.mil.mil.types import builtin_to_string

    return builtin_to_string(value.dtype) if hasattr(value, "dtype") and not isinstance(value, np.generic | np.ndarray) else "scalar"


def _is_scalar(value: Any) -> bool:
    """A number, or a constant without axes."""
    return isinstance(value, int | float | np.generic) or (getattr(value, "val", None) is not None and getattr(value, "rank", 1) == 0)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, int | float | np.generic) else value.val
