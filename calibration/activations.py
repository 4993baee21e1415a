"""Is a static scale for CLIP's activations better than one for each token at run time? Time and error of the image encoder.

    python -m calibration.activations --checkpoint calibration/demo/checkpoint
    python -m calibration.activations --checkpoint half/ --calibrate 2

Both have int8 weights per channel. Dynamic is what the recipes do: torchao's linears, everything else float32. Static is ExecuTorch's
XNNPACK quantizer after a calibration on clips: one scale for each tensor, and what lies between two quantized operators stays int8.
The error is that of the features on other clips, against float32; the programs take turns.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from calibration.clips import plan_clip
from export.arguments import ArgumentParser, add_weight_arguments
from export.backends.executorch import ExecutorchBackend
from export.checkpoint import Checkpoint, open_checkpoint
from export.components import COMPONENTS, Signature
from export.components.base import Form
from export.errors import CalibrationError, command
from export.executorch_runtime import load_method
from export.graph_passes import cheap_graph_passes
from export.quant.apply import assign, quantizable_layers
from export.quant.presets import PRESETS
from export.quiet import quiet
from runtime_py.stages import Pixels
from runtime_py.timing import take_turns, timed

NAME = "image_encoder"
RUNS = 5


def twin_of(checkpoint: Checkpoint, form: Form) -> tuple[nn.Module, Signature]:
    """The image encoder's graph, with weights of its own."""
    component = COMPONENTS[NAME]
    return component.twin(checkpoint.load(parts=set(component.parts)), form).eval(), component.signature(checkpoint.config, form)


def quantize_static(twin: nn.Module, clips: Sequence[Tensor]) -> nn.Module:
    """A twin whose activations have the scales that `clips` ask for; [16, 3, 224, 224] each."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(twin, (clips[0],), strict=False).module(), quantizer)
    for pixels in clips:
        prepared(pixels)
    return convert_pt2e(prepared)


def programs(checkpoint: Checkpoint, clips: Sequence[Tensor], folder: Path) -> dict[str, Path]:
    """The three encoders in `.pte` files."""
    backend = ExecutorchBackend()
    form = backend.form(0)
    made = {}
    for name in ("fp32", "int8 dynamic", "int8 static"):
        twin, signature = twin_of(checkpoint, form)
        assignments = []
        if name == "int8 dynamic":
            assignments = assign(PRESETS["int8"], NAME, quantizable_layers(twin))
        if name == "int8 static":
            with quiet(), cheap_graph_passes(), torch.no_grad():
                twin = quantize_static(twin, clips)
        made[name] = folder / f"{name.replace(' ', '-')}.pte"
        backend.lower(twin, signature, assignments, made[name])
    return made


def error(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The smallest cosine of a patch's features, and the root of the mean squared error by that of the features."""
    cosine = torch.cosine_similarity(found, wanted, dim=-1).min()
    return float(cosine), float((found - wanted).norm() / wanted.norm())


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.activations", description=__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR_OR_HUB_ID")
    clips_help = "clips that the static scales come from (default: %(default)s)"
    parser.add_argument("--calibrate", type=int, default=8, metavar="N", help=clips_help)
    add_weight_arguments(parser)
    args = parser.parse_args(argv)
    if args.calibrate < 1:
        raise CalibrationError(f"--calibrate {args.calibrate}: give at least 1")
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    pixels = [Pixels.of(plan_clip("validation", 0, number).draw()).clip for number in range(args.calibrate)]
    test = Pixels.of(plan_clip("test", 0, 0).draw()).clip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        made = programs(checkpoint, pixels, Path(folder))
        methods: dict[str, Callable[[], Tensor]] = {}
        for name, path in made.items():
            method = load_method(path)
            methods[name] = lambda method=method: method([test])[0]
        features = {name: run().clone() for name, run in methods.items()}
        seconds = take_turns({name: timed(run) for name, run in methods.items()}, RUNS)
        sizes = {name: path.stat().st_size for name, path in made.items()}
    print(f"{'activations':<14}{'seconds':>9}{'of dynamic':>12}{'MB':>8}{'least cosine':>14}{'error':>10}")
    for name in made:
        cosine, relative = error(features[name], features["fp32"])
        share = seconds[name] / seconds["int8 dynamic"]
        print(f"{name:<14}{seconds[name]:>9.3f}{share:>12.2f}{sizes[name] / 1e6:>8.1f}{cosine:>14.5f}{relative:>10.4f}")


if __name__ == "__main__":
    sys.exit(main())
