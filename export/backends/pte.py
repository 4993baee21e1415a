"""Reading a `.pte` file back: its weights by scheme, its operators, and how much of it XNNPACK runs.

This reads the artifact, not what the exporter believes it wrote: the program flatbuffer, each XNNPACK payload inside it, and
the constants that both refer to.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

from export.backends.base import Artifact
from export.errors import NO_SPACE, BackendError, BundleError
from export.ops.linear_int4 import GROUP
from export.quant.coverage import StoredWeight
from export.quiet import quiet

LINEAR_INT4 = "mobile_videogpt::linear_int4.out"
XNNPACK, COREML = "XnnpackBackend", "CoreMLBackend"
SCHEME_OF = {  # XNNPACK's datatype of a constant -> our scheme
    "xnn_datatype_fp32": "fp32",
    "xnn_datatype_fp16": "fp16",
    "xnn_datatype_qcint8": "int8",
    "xnn_datatype_qbint4": "int4",
    "xnn_datatype_qcint4": "int4 per channel",
}


def read_pte(path: Path) -> Artifact:
    """Weights, operators and delegated share of a program.

    Raises:
        BundleError: the file is no program that this version of ExecuTorch reads.
    """
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        pte = deserialize_pte_binary(path.read_bytes())
        plan = pte.program.execution_plan[0]
        payloads = [pte.program.backend_delegate_data[d.processed.index].data for d in plan.delegates if d.id == XNNPACK]
        graphs = [_xnnpack_graph(payload) for payload in payloads]
    except Exception as error:  # the readers fail in many ways on a damaged file; all but a full disk mean this
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise BundleError(f"{path.name} is no ExecuTorch program that this version reads: build the bundle again") from error
    named = _named_data(pte.named_data)
    names = [f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators]
    stored = [weight for graph in graphs for weight in _delegate_weights(graph, named)]
    own, taken = _own_linears(plan, names)
    stored += own + _program_constants(plan, pte.program.constant_buffer, taken)
    delegated = sum(len(graph["xnodes"]) for graph in graphs)
    calls = [call.op_index for call in _kernel_calls(plan)]
    outside = sum(not names[index].startswith("executorch_prim::") for index in calls)
    return Artifact(
        stored=tuple(stored),
        delegate="xnnpack" if delegated else "none",
        delegated=delegated / (delegated + outside) if delegated + outside else 0.0,
        operators=tuple(sorted(set(names))),
        arena_bytes=sum(plan.non_const_buffer_sizes),
        packed_bytes=sum(named.values()),
    )


def _named_data(store: Any) -> dict[str, int]:
    """Bytes of each constant that delegates refer to by key."""
    return {key: len(store.buffers[entry.buffer_index]) for key, entry in store.pte_data.items()} if store else {}


def _xnnpack_graph(payload: bytes) -> dict:
    """The XNNPACK graph of one delegate as the dictionary of its flatbuffer schema."""
    import executorch.backends.xnnpack.serialization as serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(Path(serialization.__path__[0], "schema.fbs").read_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = Path(folder, "graph.json").read_text()
    return json.loads(re.sub(r":\s*(-?)inf\b", r": \1Infinity", text))  # flatc writes unbounded clamps as inf, which is no JSON


def _delegate_weights(graph: dict, named: dict[str, int]) -> list[StoredWeight]:
    """The constants of an XNNPACK graph that are weights: matrices and convolution kernels, norms, biases, tables."""

    def size(index: int) -> int:
        entry = graph["constant_data"][index]
        return named.get(entry.get("named_key", ""), entry.get("size", 0))

    weights = []
    for value in graph["xvalues"]:
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)
        if not tensor["constant_buffer_idx"]:  # 0 means: not a constant
            continue
        scales = union.get("quant_params", {}).get("scale_buffer_idx", 0)
        total = size(tensor["constant_buffer_idx"]) + (size(scales) if scales else 0)
        scheme = SCHEME_OF.get(tensor["datatype"], tensor["datatype"].removeprefix("xnn_datatype_"))
        weights.append(StoredWeight(scheme, tuple(tensor["dims"]), total))
    return weights


def _kernel_calls(plan: Any) -> list[Any]:
    """The calls of operators outside delegates."""
    return [i.instr_args for chain in plan.chains for i in chain.instructions if type(i.instr_args).__name__ == "KernelCall"]


def _own_linears(plan: Any, names: list[str]) -> tuple[list[StoredWeight], set[int]]:
    """The weights of our own int4 linears, layer by layer, and the buffers that hold them and their scales."""
    weights: list[StoredWeight] = []
    taken: set[int] = set()
    for call in _kernel_calls(plan):
        if names[call.op_index] != LINEAR_INT4:
            continue
        weight, scale, layers = (plan.values[call.args[i]].val for i in (1, 2, 6))
        inputs = weight.sizes[1] * 8
        for index in layers.items:
            outputs = plan.values[index].val.int_val
            weights.append(StoredWeight("int4", (outputs, inputs), outputs * inputs // 2 + outputs * inputs // GROUP * 2))
        taken |= {weight.data_buffer_idx, scale.data_buffer_idx}
    return weights, taken


def _program_constants(plan: Any, buffers: list, taken: set[int]) -> list[StoredWeight]:
    """Constants outside delegates but for the buffers that are `taken`: the embedding table, and float weights of portable operators."""
    schemes = {"FLOAT": "fp32", "HALF": "fp16", "CHAR": "int8"}
    weights: list[StoredWeight] = []
    seen = set(taken)
    for value in plan.values:
        tensor = value.val
        if type(tensor).__name__ != "Tensor" or tensor.allocation_info is not None or not tensor.data_buffer_idx:
            continue
        scheme = schemes.get(tensor.scalar_type.name)
        if scheme is None or tensor.data_buffer_idx in seen:
            continue  # index tables and the like are no weights
        seen.add(tensor.data_buffer_idx)
        weights.append(StoredWeight(scheme, tuple(tensor.sizes), len(buffers[tensor.data_buffer_idx].storage)))
    return _with_row_scales([weight for weight in weights if math.prod(weight.shape) > 1])


def _with_row_scales(weights: list[StoredWeight]) -> list[StoredWeight]:
    """Int8 tables [V, D] take in the bytes of their scales [V, 1], which are no weights of their own."""
    merged = list(weights)
    for table in weights:
        scales = next((w for w in merged if w.scheme == "fp32" and w.shape == (table.shape[0], 1)), None)
        if table.scheme == "int8" and scales:
            merged.remove(scales)
            merged[merged.index(table)] = StoredWeight(table.scheme, table.shape, table.bytes + scales.bytes)
    return merged


@dataclasses.dataclass(frozen=True)
class CoremlDelegate:
    """The Core ML package inside a program, and its names for the program's inputs and outputs, in their order."""

    package: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def coreml_part() -> Any:
    """ExecuTorch's module for the blobs of its Core ML delegate.

    Raises:
        BackendError: this machine has none.
    """
    try:
        with quiet():
            from executorch.backends.apple.coreml import executorchcoreml
    except ImportError as error:
        raise BackendError(f"Core ML delegates need ExecuTorch with its Core ML part ({error}): pip install -e '.[executorch]'") from None
    return executorchcoreml


def unpack_coreml(path: Path, folder: Path) -> CoremlDelegate:
    """Unpack the one Core ML delegate of a program into `folder`.

    Raises:
        BundleError: the file is no program, or Core ML runs less than all of it.
    """
    executorchcoreml = coreml_part()
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary
    try:
        pte = deserialize_pte_binary(path.read_bytes())
        plan = pte.program.execution_plan[0]
        blobs = [pte.program.backend_delegate_data[d.processed.index].data for d in plan.delegates if d.id == COREML]
        calls = sum(type(i.instr_args).__name__ == "KernelCall" for chain in plan.chains for i in chain.instructions)
        if len(blobs) == len(plan.delegates) == 1 and calls == 0:
            executorchcoreml.unflatten_directory_contents(bytes(blobs[0]), str(folder))
            metadata = json.loads((folder / "lowered_module" / "metadata.json").read_text())
            names = (tuple(metadata["inputNames"]), tuple(metadata["outputNames"]))
            return CoremlDelegate(folder / "lowered_module" / "model.mlpackage", *names)
    except Exception as error:  # as in `read_pte`
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise BundleError(f"{path.name} is no ExecuTorch program that this version reads: build the bundle again") from error
    raise BundleError(f"{path.name}: Core ML runs less than all of it ({len(blobs)} delegates, {calls} operators outside)")
