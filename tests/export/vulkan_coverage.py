"""What ExecuTorch's Vulkan delegate would take of a checkpoint's graphs: a table for docs/devices.md. Nothing is run.

    python -m tests.export.vulkan_coverage calibration/demo/checkpoint

Each graph is lowered as `export.build --target executorch` does, but with Vulkan's partitioner. Operators inside a loop belong to it, and
no delegate takes loops.
"""

import argparse
import collections

import torch
from torch import nn

from export.backends.executorch import ExecutorchBackend, quantize
from export.checkpoint import open_checkpoint
from export.components import COMPONENTS, Signature
from export.config import MAX_CONTEXT
from export.errors import one_line
from export.graph_passes import cheap_graph_passes
from export.quant.apply import Assignment, assign, quantizable_layers
from export.quant.presets import PRESETS
from export.quiet import quiet


def coverage(twin: nn.Module, signature: Signature, assignments: list[Assignment]) -> tuple[int, collections.Counter, int]:
    """Operators that the delegate takes, those that it leaves by name, and the bytes of the program."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  (defines torch.ops.llama)

    with torch.no_grad(), quiet(), cheap_graph_passes():
        quantize(twin, assignments)
        program = torch.export.export(twin, signature.example_inputs(), dynamic_shapes=signature.dynamic_shapes(), strict=False)
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[VulkanPartitioner({"require_dynamic_shapes": bool(signature.dynamic_axes)})],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        module = edge.exported_program().graph_module
        called = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        taken = 0
        for node in module.graph.nodes:
            inside = getattr(getattr(module, str(node.target), None), "original_module", None) if node.op == "get_attr" else None
            if inside is not None:
                taken += sum(one.op == "call_function" and "getitem" not in str(one.target) for one in inside.graph_module.graph.nodes)
        outside = [name for name in called if "delegate" not in name and "getitem" not in name]
        left = collections.Counter(name.split(">")[0].split(": ")[-1] for name in outside)
        return taken, left, len(edge.to_executorch().buffer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--recipe", default="int4", choices=("fp32", "int8", "int4"))
    args = parser.parse_args()
    checkpoint, form = open_checkpoint(args.checkpoint), ExecutorchBackend().form(MAX_CONTEXT)
    print("| graph | operators taken | left outside | bytes |\n|---|---|---|---|")
    for name, component in COMPONENTS.items():
        twin = component.twin(checkpoint.load(parts=set(component.parts)), form).eval()
        assignments = assign(PRESETS[args.recipe], name, quantizable_layers(twin))
        try:
            taken, left, size = coverage(twin, component.signature(checkpoint.config, form), assignments)
        except Exception as error:  # whatever the delegate's own passes raise
            print(f"| `{name}` | lowering fails: {one_line(error.__cause__ or error)} | | |", flush=True)
            continue
        names = ", ".join(f"{count} `{operator}`" for operator, count in left.items()) or "none"
        print(f"| `{name}` | {taken} | {names} | {size:,} |", flush=True)


if __name__ == "__main__":
    main()
