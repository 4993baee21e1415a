"""A scatter plot as SVG: names beside the points, those on the Pareto front filled and joined."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 80, 170, 20, 50  # pixels
LEAST = 1e-7  # of a logarithmic axis: a bundle that equals the model has a KL of 0
TICKS = 5

Point = tuple[float, float, str, bool]  # x, y, name, whether on the front


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Points over a linear x axis and a logarithmic y axis."""
    xs = [x for x, *_ in points]
    ys = [math.log10(max(y, LEAST)) for _, y, *_ in points]
    x_low, x_high = 0.0, max(xs) * 1.05
    y_low, y_high = math.floor(min(ys)), max(math.ceil(max(ys)), math.floor(min(ys)) + 1)

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(log_y: float) -> float:
        return TOP + (y_high - log_y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for i in range(TICKS + 1):
        x = x_low + i * (x_high - x_low) / TICKS
        parts.append(f'<text x="{across(x):.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.3g}</text>')
    for power in range(y_low, y_high + 1):
        parts.append(f'<path d="M{LEFT} {down(power):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(power) + 4:.0f}" text-anchor="end">1e{power}</text>')
    front = sorted((across(x), down(y)) for (x, _, _, on), y in zip(points, ys) if on)
    parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in front)}" fill="none" stroke="#06c"/>')
    for (x, _, name, on), y in zip(points, ys):
        parts.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="5" fill="{"#06c" if on else "white"}" stroke="#06c"/>')
        parts.append(f'<text x="{across(x) + 9:.1f}" y="{down(y) + 4:.1f}">{html.escape(name)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(x_title)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 16 {middle:.0f})" x="16" y="{middle:.0f}"'
    parts.append(f'<text {turned} text-anchor="middle">{html.escape(y_title)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
