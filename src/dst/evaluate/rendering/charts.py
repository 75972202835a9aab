"""Charts: a bench in, SVG for the page out."""

import math
from collections.abc import Iterable
from html import escape

from dst.evaluate.rendering.canvas import COLOURS
from dst.evaluate.result import BenchResult

_WIDTH, _LEFT, _TOP, _BOTTOM = 960, 56, 14, 30


def bars(result: BenchResult) -> str:
    """Draw speed over the first bundle: a group of bars for each T, with whiskers."""
    height = 260
    found = {
        (place, cell.t): cell.ratio
        for place, entry in enumerate(result.bundles)
        for cell in entry.cells
        if cell.ratio is not None
    }
    top = 1.12 * max([1.0, *(ratio.high for ratio in found.values())])
    tall = height - _TOP - _BOTTOM

    def y(value: float) -> float:
        return _TOP + tall * (1 - value / top)

    parts = [_rule(y(value), f"{value:g}×") for value in _round_values(top)]
    group = (_WIDTH - _LEFT) / len(result.sizes)
    wide = min(46.0, 0.78 * group / len(result.bundles))
    for g, t in enumerate(result.sizes):
        middle = _LEFT + group * (g + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">T = {t}</text>')
        for place in range(len(result.bundles)):
            x = middle + wide * (place - len(result.bundles) / 2)
            ratio = found.get((place, t))
            if ratio is None:
                parts.append(_word(x + wide / 2, y(0) - 6, "–"))
                continue
            fill = COLOURS[place % len(COLOURS)]
            parts.append(
                f'<rect x="{x + 2:.1f}" y="{y(ratio.median):.1f}" width="{wide - 4:.1f}" '
                f'height="{y(0) - y(ratio.median):.1f}" rx="3" fill="{fill}">'
                f"<title>{escape(result.bundles[place].label)}, T = {t}: "
                f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})</title></rect>"
            )
            centre = x + wide / 2
            parts.append(
                f'<line x1="{centre:.1f}" x2="{centre:.1f}" y1="{y(ratio.low):.1f}" '
                f'y2="{y(ratio.high):.1f}" stroke="currentColor" stroke-width="1.2"/>'
            )
            parts.append(_word(centre, y(ratio.high) - 4, f"{ratio.median:.2f}"))
    parts.append(f'<line class="one" x1="{_LEFT}" x2="{_WIDTH}" y1="{y(1):.1f}" y2="{y(1):.1f}"/>')
    return _svg(height, parts) + _legend(result, range(len(result.bundles)))


def curves(result: BenchResult) -> str:
    """Draw divergence over positions, both on logarithmic axes."""
    height = 300
    held = {i: e.quality for i, e in enumerate(result.bundles) if e.quality is not None}
    values = [max(v, 1e-12) for q in held.values() for v in q.divergence]
    ends = [p for q in held.values() for p in q.positions]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    first, last = math.log10(min(ends)), math.log10(max(ends))
    last = max(last, first + 1)
    tall, long = height - _TOP - _BOTTOM, _WIDTH - _LEFT - 16

    def x(position: float) -> float:
        return _LEFT + long * (math.log10(position) - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + tall * (high - math.log10(max(value, 1e-12))) / (high - low)

    parts = [_rule(y(10.0**power), f"1e{power}") for power in range(low, high + 1)]
    for power in range(math.ceil(first), math.floor(last) + 1):
        label = f"{10**power:,}"
        place = min(x(10.0**power), _WIDTH - 3.5 * len(label))  # half a label must fit beside it
        parts.append(f'<text x="{place:.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    for place, quality in held.items():
        points = " ".join(
            f"{x(p):.1f},{y(v):.1f}"
            for p, v in zip(quality.positions, quality.divergence, strict=True)
        )
        colour = COLOURS[place % len(COLOURS)]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
            'stroke-linejoin="round"/>'
        )
    return _svg(height, parts) + _legend(result, held)


def _svg(height: int, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def _rule(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _word(x: float, y: float, word: str) -> str:
    return f'<text class="value" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{word}</text>'


def _legend(result: BenchResult, places: Iterable[int]) -> str:
    """Name the bundles that are drawn."""
    marks = "".join(
        f'<span><span class="dot" style="background:{COLOURS[place % len(COLOURS)]}"></span>'
        f"{escape(result.bundles[place].label)}</span>"
        for place in places
    )
    return f'<div class="legend">{marks}</div>'


def _round_values(top: float) -> list[float]:
    """About five round numbers from 0 up to `top`."""
    step = 10.0 ** math.floor(math.log10(top / 4))
    step = next(step * k for k in (1, 2, 5, 10) if top / (step * k) <= 6)
    return [step * k for k in range(int(top / step) + 1)]
