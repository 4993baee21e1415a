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
from runtime_py.files import replacing

WIDTH, HEIGHT, MARGIN = 560, 320, 48  # pixels


def curve(points: Sequence[tuple[int, float]]) -> str:
    """(step, share) pairs as a line."""
    last, low = max(step for step, _ in points), 0.1 * int(10 * min(share for _, share in points))

    def at(step: float, share: float) -> tuple[float, float]:
        return MARGIN + step / last * (WIDTH - MARGIN - 16), HEIGHT - MARGIN - (share - low) / (1 - low) * (HEIGHT - MARGIN - 20)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    parts = [f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/>']
    for share in (low, (1 + low) / 2, 1.0):
        x, y = at(0, share)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{WIDTH - 16}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{share:.2f}</text>')
    for step in (0, last // 2, last):
        x, y = at(step, low)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{step}</text>')
    title = "steps; share of right answer tokens, validation clips"
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{title}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


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
    with replacing(args.out) as file:
        file.write(curve(sorted(points.items())).encode())


if __name__ == "__main__":
    sys.exit(main())
