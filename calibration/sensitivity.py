"""Which of the decoder's layers suffer most from int4? The answer is a recipe: those that pay most per byte get int8, or stay float.

    python -m calibration.sensitivity --checkpoint C --calibration STATISTICS --clips synthetic --extra-bytes 5% --out mixed.json
    python -m export.build --target executorch --checkpoint C --recipe mixed.json --calibration STATISTICS

Each linear alone is rounded to int4, and the mean KL divergence from the float model is measured; so is each in int8. In float it is 0.
Then the bytes are spent step by step: of all layers and finer schemes the one whose gain over the layer's present scheme is the
largest by the byte, until nothing that gains fits into --extra-bytes. --float fp16 is for Core ML alone, whose decoder computes in
float32 as a whole where one of its layers is fp32.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from calibration.experiment import Experiment, add_experiment_arguments, experiment
from export.arguments import ArgumentParser
from export.errors import CalibrationError, command
from export.progress import Progress
from export.quant.gptq import gptq
from export.quant.presets import PRESETS
from export.quant.recipe import GPTQ, LINEAR, ROUNDINGS, SCHEMES, Recipe, Rule
from export.quant.rounding import dequantize, quantize
from runtime_py.files import check_writable, write_text

SCALE_BYTES = 2  # each


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What one layer alone costs by scheme, the coarsest first: mean KL divergence (nats), and bytes."""

    layer: str
    kl: Mapping[str, float]
    bytes: Mapping[str, int]

    @property
    def coarsest(self) -> str:
        return next(iter(self.kl))

    def gain(self, present: str, scheme: str) -> float:
        """KL that `scheme` saves against `present`, by the byte that it costs more."""
        return (self.kl[present] - self.kl[scheme]) / self.more_bytes(present, scheme)

    def more_bytes(self, present: str, scheme: str) -> int:
        return self.bytes[scheme] - self.bytes[present]


def measure(run: Experiment, rounding: str, finest: str, progress: Progress) -> list[Sensitivity]:
    """Every linear of the decoder in int4 (where its width takes that), int8, and `finest`, which is "fp32" or "fp16"."""
    found = []
    for layer, weight in run.weights.items():
        schemes = [name for name in ("int4", "int8") if not weight.shape[1] % (SCHEMES[name].group_size or 1)]
        kl = {name: run.agreement({layer: _rounded(run, layer, name, rounding)}).kl for name in schemes}
        kl[finest] = 0.0 if finest == "fp32" else run.agreement({layer: weight.half().float()}).kl
        found.append(Sensitivity(layer, kl, {name: stored_bytes(weight.shape, name) for name in kl}))
        progress.step(f"{layer}: {', '.join(f'{name} {value:.2e}' for name, value in kl.items())}")
    return found


def _rounded(run: Experiment, layer: str, scheme: str, rounding: str) -> Tensor:
    """What the layer's weight [O, I] stands for in a scheme."""
    weight = run.weights[layer]
    if scheme == "int4" and rounding == GPTQ:
        return dequantize(*gptq(weight, run.statistics(layer).gram, SCHEMES[scheme], torch.bfloat16))
    return dequantize(*quantize(weight, SCHEMES[scheme], torch.bfloat16 if scheme == "int4" else torch.float32))


def stored_bytes(shape: Sequence[int], name: str) -> int:
    """Of a weight [O, I] with its scales."""
    (rows, columns), scheme = shape, SCHEMES[name]
    groups = columns // (scheme.group_size or columns) if scheme.quantized else 0
    return rows * (columns * scheme.bits // 8 + groups * SCALE_BYTES)


def choose(found: Sequence[Sensitivity], extra_bytes: float) -> dict[str, str]:
    """Each layer's scheme: from the coarsest on, always the step that gains most by the byte among those that still fit; one that gains
    nothing is not taken."""
    chosen = {one.layer: one.coarsest for one in found}
    while True:
        steps = [
            (one.gain(chosen[one.layer], scheme), one, scheme)
            for one in found
            for scheme in list(one.kl)[list(one.kl).index(chosen[one.layer]) + 1 :]
            if one.more_bytes(chosen[one.layer], scheme) <= extra_bytes
        ]
        gain, one, scheme = max(steps, key=lambda step: step[0], default=(0.0, None, ""))
        if one is None or not gain > 0:
            return chosen
        extra_bytes -= one.more_bytes(chosen[one.layer], scheme)
        chosen[one.layer] = scheme


def recipe(name: str, found: Sequence[Sensitivity], chosen: Mapping[str, str], rounding: str) -> Recipe:
    """int4, with a rule for each layer that is to be in another scheme; int8 where no layer is left in int4."""
    base = PRESETS["int4-gptq" if rounding == GPTQ else "int4"] if "int4" in chosen.values() else PRESETS["int8"]
    rules = tuple(Rule("decoder", LINEAR, chosen[one.layer], layers=one.layer) for one in found if chosen[one.layer] != one.coarsest)
    return Recipe(name, rules + base.rules)


def parse_bytes(text: str) -> tuple[float, bool]:
    """A number of bytes, or (True) of per cent of the int4 decoder."""
    number = text.replace(" ", "")
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise CalibrationError(f"--extra-bytes {text}: give bytes, or per cent of the int4 decoder such as 5%")
    return value, number.endswith("%")


def table(found: Sequence[Sensitivity], chosen: Mapping[str, str]) -> str:
    """A line for each layer, those that int4 hurts most first."""
    finest = list(found[0].kl)[-1]
    lines = [f"{'layer':<28} {'KL int4':>10} {'KL int8':>10} {f'KL {finest}':>10} {'bytes more':>11}  scheme"]
    for one in sorted(found, key=lambda one: one.kl[one.coarsest], reverse=True):
        scheme = chosen[one.layer]
        cells = [f"{one.kl[name]:>10.2e}" if name in one.kl else f"{'-':>10}" for name in ("int4", "int8", finest)]
        lines.append(f"{one.layer:<28} {' '.join(cells)} {one.more_bytes(one.coarsest, scheme):>11,}  {scheme}")
    return "\n".join(lines)


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.sensitivity", description=__doc__)
    add_experiment_arguments(parser)
    parser.add_argument("--rounding", choices=ROUNDINGS, default=GPTQ, help="of the int4 layers (default: %(default)s)")
    extra_help = "what finer layers may add, in bytes or per cent of the int4 decoder (default: %(default)s)"
    parser.add_argument("--extra-bytes", default="5%", metavar="N", help=extra_help)
    parser.add_argument("--float", choices=("fp32", "fp16"), default="fp32", help="the finest scheme (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the recipe")
    args = parser.parse_args(argv)
    if args.out.suffix != ".json":
        raise CalibrationError(f"--out {args.out}: a recipe's file ends in .json")
    check_writable(args.out)
    extra, per_cent = parse_bytes(args.extra_bytes)
    with experiment(args) as run:
        progress = Progress(len(run.weights))
        found = measure(run, args.rounding, args.float, progress)
        progress.close()
    base = sum(one.bytes[one.coarsest] for one in found)
    chosen = choose(found, extra / 100 * base if per_cent else extra)
    print(table(found, chosen))
    write_text(args.out, json.dumps(recipe(args.out.stem, found, chosen, args.rounding).to_json(), indent=2) + "\n")
    more = sum(one.more_bytes(one.coarsest, chosen[one.layer]) for one in found)
    counts = ", ".join(f"{list(chosen.values()).count(name)} in {name}" for name in ("int8", args.float))
    print(f"{args.out}: of {len(found)} layers {counts}, {more:,} bytes more than {base:,}")


if __name__ == "__main__":
    sys.exit(main())
