"""Plots as SVG: a scatter plot whose Pareto front is joined, and lines."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 80, 170, 20, 50  # pixels
LEAST = 1e-7  # of a logarithmic axis: a bundle that equals the model has a KL of 0
TICKS = 5

Point = tuple[float, float]  # x, y
Mark = tuple[float, float, str, bool]  # x, y, name, whether on the front


COLOURS = ("#06c", "#d62", "#2a2", "#83b")


def document(width: int, height: int, parts: Sequence[str]) -> str:
    """An SVG file of `parts` on white."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def lines(series: Mapping[str, Sequence[Point]], x_title: str, y_title: str, y_low: float = 0.0, y_high: float | None = None) -> str:
    """A line through (x, y) points for each name; x begins at 0. A name that begins with a dash is drawn dashed, without points."""
    width, height, left, right, top, bottom = 640, 360, 56, 150 if len(series) > 1 else 24, 34, 44
    x_high = max(x for points in series.values() for x, _ in points)
    y_high = 1.05 * max(y for points in series.values() for _, y in points) if y_high is None else y_high

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / x_high * (width - left - right), height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = []
    for i in range(TICKS + 1):
        (x, base), (_, y) = at(i * x_high / TICKS, y_low), at(0, y_low + i * (y_high - y_low) / TICKS)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{y_low + i * (y_high - y_low) / TICKS:.3g}</text>')
        parts.append(f'<text x="{x:.0f}" y="{base + 16:.0f}" text-anchor="middle">{i * x_high / TICKS:.4g}</text>')
    for (name, points), colour in zip(series.items(), COLOURS):
        places = [at(*point) for point in sorted(points)]
        dashed = name.startswith("-")
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if not dashed:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
        if len(series) > 1:
            x, y = places[-1]
            parts.append(f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{colour}">{html.escape(name.removeprefix("-"))}</text>')
    parts.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{html.escape(x_title)}</text>')
    parts.append(f'<text x="8" y="18">{html.escape(y_title)}</text>')
    return document(width, height, parts)


def scatter(points: Sequence[Mark], x_title: str, y_title: str) -> str:
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
    return document(WIDTH, HEIGHT, parts)
