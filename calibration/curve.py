"""The curve of a training run: the share of right answer tokens on validation clips over the decoder's steps, as SVG.

python -m calibration.curve --log calibration/demo/checkpoint/language.jsonl --out docs/training.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from export.arguments import ArgumentParser
from export.errors import ExportError, command
from runtime_py.files import write_text
from runtime_py.plots import lines


def curve(points: Sequence[tuple[int, float]]) -> str:
    """(step, share) pairs as a line."""
    low = 0.1 * int(10 * min(share for _, share in points))
    return lines({"share": points}, "steps", "share of right answer tokens, validation clips", y_low=low, y_high=1.0)


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.curve", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, metavar="FILE.jsonl", help="the decoder's log")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    args = parser.parse_args(argv)
    try:
        lines = [json.loads(line) for line in args.log.read_text(encoding="utf-8").splitlines()]
        points = {line["step"]: line["validation"]["tokens"] for line in lines if "validation" in line}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{args.log} is no log of the decoder's training: {error}") from error
    if len(points) < 2:
        raise ExportError(f"{args.log} has fewer than two validations")
    write_text(args.out, curve(sorted(points.items())))


if __name__ == "__main__":
    sys.exit(main())
