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
    """(step, share) pairs as a line; shares are 0 to 1."""
    low = min(0.1 * int(10 * min(share for _, share in points)), 0.9)
    return lines({"share": points}, "steps", "share of right answer tokens, validation clips", y_low=low, y_high=1.0)


def read_log(path: Path) -> list[tuple[int, float]]:
    """(step, share of right answer tokens) of each validation, by step.

    Raises:
        ExportError: the file is no log of the decoder's stage.
    """
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = {int(entry["step"]): float(entry["validation"]["tokens"]) for entry in entries if "validation" in entry}
        if not all(step >= 0 and 0 <= share <= 1 for step, share in points.items()):
            raise ValueError("a step below 0, or a share beyond 0 to 1")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(f"{path} is no log of the decoder's training ({error}): give the language.jsonl of a run") from error
    return sorted(points.items())


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.curve", description=__doc__)
    parser.add_argument("--log", type=Path, required=True, metavar="FILE.jsonl", help="the decoder's log")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    args = parser.parse_args(argv)
    points = read_log(args.log)
    if len(points) < 2:
        raise ExportError(f"{args.log} has {len(points)} validations, and a curve needs two: train on, or give another log")
    write_text(args.out, curve(points))


if __name__ == "__main__":
    sys.exit(main())
