"""Which of the decoder's layers suffer most from int4? The answer is a recipe: those that pay most per byte get int8.

    python -m calibration.sensitivity --checkpoint C --calibration STATISTICS --clips synthetic --extra-bytes 5% --out mixed.json
    python -m export.build --target executorch --checkpoint C --recipe mixed.json --calibration STATISTICS

Each linear alone is rounded to int4, and the mean KL divergence from the float model is measured; so is each in int8. What int8 gains,
by the byte that it costs more, is the order in which layers are given it until --extra-bytes are spent.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch

from calibration.experiment import Experiment, add_experiment_arguments, experiment
from export.arguments import ArgumentParser
from export.errors import CalibrationError, command
from export.progress import Progress
from export.quant.gptq import gptq
from export.quant.presets import PRESETS
from export.quant.recipe import GPTQ, LINEAR, ROUNDINGS, SCHEMES, Recipe, Rule
from export.quant.rounding import dequantize, quantize
from runtime_py.files import check_writable, write_text

INT4, INT8 = SCHEMES["int4"], SCHEMES["int8"]
SCALE_BYTES = 2  # each


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What one layer alone costs: mean KL divergence (nats) in int4 and in int8, and the bytes of each."""

    layer: str
    kl_int4: float
    kl_int8: float
    bytes_int4: int
    bytes_int8: int

    @property
    def gain(self) -> float:
        """KL that int8 saves, by byte."""
        return (self.kl_int4 - self.kl_int8) / (self.bytes_int8 - self.bytes_int4)


def measure(run: Experiment, rounding: str, progress: Progress) -> list[Sensitivity]:
    """Every linear of the decoder, the most rewarding first."""
    found = []
    for layer, weight in run.weights.items():
        if weight.shape[1] % INT4.group_size:
            continue  # int8 by rule
        if rounding == GPTQ:
            int4 = dequantize(*gptq(weight, run.statistics(layer).gram, INT4, torch.bfloat16))
        else:
            int4 = dequantize(*quantize(weight, INT4, torch.bfloat16))
        int8 = dequantize(*quantize(weight, INT8, torch.float32))
        rows, columns = weight.shape
        sizes = rows * (columns // 2 + SCALE_BYTES * columns // INT4.group_size), rows * (columns + SCALE_BYTES)
        found.append(Sensitivity(layer, run.agreement({layer: int4}).kl, run.agreement({layer: int8}).kl, *sizes))
        progress.step(f"{layer}: {found[-1].kl_int4:.6f}")
    return sorted(found, key=lambda one: one.gain, reverse=True)


def choose(found: list[Sensitivity], extra_bytes: float) -> list[Sensitivity]:
    """The layers to put in int8, the most rewarding first, as far as the bytes go; one that gains nothing is left."""
    chosen = []
    for one in found:
        cost = one.bytes_int8 - one.bytes_int4
        if one.gain > 0 and cost <= extra_bytes:
            chosen.append(one)
            extra_bytes -= cost
    return chosen


def recipe(name: str, chosen: list[Sensitivity], rounding: str) -> Recipe:
    """int4 with the chosen layers in int8."""
    base = PRESETS["int4-gptq" if rounding == GPTQ else "int4"]
    rules = tuple(Rule("decoder", LINEAR, "int8", layers=one.layer) for one in chosen)
    return Recipe(name, rules + base.rules)


def parse_bytes(text: str, base: int) -> float:
    """A number of bytes, or a share of `base` in per cent."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise CalibrationError(f"--extra-bytes {text}: give bytes, or per cent of the int4 decoder such as 5%")
    return value / 100 * base if text.endswith("%") else value


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.sensitivity", description=__doc__)
    add_experiment_arguments(parser)
    parser.add_argument("--rounding", choices=ROUNDINGS, default=GPTQ, help="of the int4 layers (default: %(default)s)")
    extra_help = "what int8 layers may add, in bytes or per cent of the int4 decoder (default: %(default)s)"
    parser.add_argument("--extra-bytes", default="5%", metavar="N", help=extra_help)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the recipe")
    args = parser.parse_args(argv)
    if args.out.suffix != ".json":
        raise CalibrationError(f"--out {args.out}: a recipe's file ends in .json")
    check_writable(args.out)
    with experiment(args) as run:
        progress = Progress(len(run.weights))
        found = measure(run, args.rounding, progress)
        progress.close()
    base = sum(one.bytes_int4 for one in found)
    chosen = choose(found, parse_bytes(args.extra_bytes.replace(" ", ""), base))
    print(f"{'layer':<28} {'KL int4':>10} {'KL int8':>10} {'bytes more':>11}")
    for one in found:
        mark = "  int8" if one in chosen else ""
        print(f"{one.layer:<28} {one.kl_int4:>10.6f} {one.kl_int8:>10.6f} {one.bytes_int8 - one.bytes_int4:>11,}{mark}")
    data = recipe(args.out.stem, chosen, args.rounding).to_json()
    write_text(args.out, json.dumps(data, indent=2) + "\n")
    more = sum(one.bytes_int8 - one.bytes_int4 for one in chosen)
    print(f"{args.out}: {len(chosen)} of {len(found)} layers in int8, {more:,} bytes more than {base:,}")


if __name__ == "__main__":
    sys.exit(main())
