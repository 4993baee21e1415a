"""Which way of choosing int4 integers costs the decoder least? Each one's mean KL divergence from the float model, at equal size.

    python -m calibration.roundings --checkpoint calibration/demo/checkpoint --calibration STATISTICS --clips synthetic

The decoder's linears are rounded in the eager model, group of 32 and scheme the same for all; everything else stays float32, and
activations too. The statistics come from other clips than those asked about here.

    nearest   scale from the largest weight of a group, each weight to the nearest step: torchao's default, and the recipe int4
    hqq       torchao's half-quadratic search of the scale (Badri and Shaji, 2023), symmetric
    awq       Lin et al., "AWQ" (arXiv 2306.00978): inputs that are large on average are scaled up before rounding and down after
    scales    the scale that loses least for the inputs seen, each weight to the nearest step
    gptq      the same scales, and integers whose errors make up for each other: the recipe int4-gptq
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from calibration.experiment import add_experiment_arguments, experiment
from export.arguments import ArgumentParser
from export.errors import command
from export.progress import Progress
from export.quant.gptq import gptq, search_scales
from export.quant.recipe import SCHEMES
from export.quant.rounding import dequantize, quantize
from export.quant.statistics import InputStatistics
from runtime_py.agreement import Agreement
from runtime_py.files import check_writable, write_text

INT4 = SCHEMES["int4"]
SCALE_DTYPE = torch.bfloat16
AWQ_GRID = 20  # exponents tried, from 0 to 1

Rounding = Callable[[Tensor, InputStatistics], Tensor]  # weight [O, I] -> what its rounded form stands for, [O, I]


def nearest(weight: Tensor, _: InputStatistics) -> Tensor:
    return dequantize(*quantize(weight, INT4, SCALE_DTYPE))


def hqq(weight: Tensor, _: InputStatistics) -> Tensor:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4,
        weight_granularity=PerGroup(INT4.group_size),
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY,
    )
    holder = nn.Sequential(linear)
    quantize_(holder, config)
    return holder[0].weight.dequantize()


def awq(weight: Tensor, statistics: InputStatistics) -> Tensor:
    size = statistics.mean_abs.clamp(min=1e-6)
    best, chosen = float("inf"), weight
    for step in range(AWQ_GRID + 1):
        scale = size ** (step / AWQ_GRID)
        scale = (scale / (scale.max() * scale.min()).sqrt()).clamp(min=1e-4)  # [I]
        rounded = dequantize(*quantize(weight * scale, INT4, SCALE_DTYPE)) / scale
        loss = output_loss(rounded - weight, statistics.gram)
        if loss < best:
            best, chosen = loss, rounded
    return chosen


def scales(weight: Tensor, statistics: InputStatistics) -> Tensor:
    scale = search_scales(weight.float(), statistics.gram.diagonal(), INT4, SCALE_DTYPE)
    rows, groups = scale.shape
    integers = torch.clamp(torch.round(weight.float().reshape(rows, groups, -1) / scale.float()[..., None]), -8, 7)
    return dequantize(integers.reshape(weight.shape), scale)


def by_gptq(weight: Tensor, statistics: InputStatistics) -> Tensor:
    return dequantize(*gptq(weight, statistics.gram, INT4, SCALE_DTYPE))


ROUNDINGS: dict[str, Rounding] = {"nearest": nearest, "hqq": hqq, "awq": awq, "scales": scales, "gptq": by_gptq}


def output_loss(error: Tensor, gram: Tensor) -> float:
    """The mean squared error of a linear's outputs whose weight is off by `error` [O, I]: tr(E H E^T)."""
    return float(((error @ gram) * error).sum())


def table(rows: dict[str, tuple[Agreement, float]]) -> str:
    lines = [f"{'rounding':<10} {'mean KL':>10} {'+-':>9} {'to nearest':>11} {'same best id':>13} {'perplexity':>11} {'output error':>13}"]
    base = rows["nearest"][0].kl
    for name, (a, loss) in rows.items():
        share = f"{a.kl / base:.2f}" if base else "-"  # weights that lie on a grid already lose nothing
        lines.append(f"{name:<10} {a.kl:>10.5f} {a.kl_error:>9.5f} {share:>11} {a.top1:>12.2%} {a.perplexity:>11.4f} {loss:>13.3e}")
    first = next(iter(rows.values()))[0]
    return "\n".join([*lines, f"{first.tokens} answer tokens; the float model's perplexity is {first.reference_perplexity:.4f}"])


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.roundings", description=__doc__)
    add_experiment_arguments(parser)
    parser.add_argument("--roundings", nargs="+", choices=tuple(ROUNDINGS), default=list(ROUNDINGS), help="(default: all)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the table as JSON too")
    args = parser.parse_args(argv)
    if args.json:
        check_writable(args.json)
    names = list(dict.fromkeys(["nearest", *args.roundings]))
    with experiment(args) as run:
        progress = Progress(len(names))
        rows = {}
        for name in names:
            progress.begin(name)
            rounded = {layer: ROUNDINGS[name](weight, run.statistics(layer)) for layer, weight in run.weights.items()}
            loss = sum(output_loss(rounded[layer] - weight, run.statistics(layer).gram) for layer, weight in run.weights.items())
            rows[name] = run.agreement(rounded), loss
            progress.end(f"{name}: KL {rows[name][0].kl:.5f}")
        progress.close()
    print(table(rows))
    if args.json:
        data = {name: vars(agreement) | {"output_error": loss} for name, (agreement, loss) in rows.items()}
        write_text(args.json, json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
