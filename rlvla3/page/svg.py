"""Charts as SVG, for a file that needs nothing else: curves with bands, stacked bars, and lanes over time.

Colours are CSS variables of the page around them (--series-0, --series-1, ..., --axis, --grid), so that charts follow its light and its dark form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
SERIES = 8
"""So many colours there are. Further curves begin again with the first."""

ROUNDING, SMALLEST = 1e-12, 1e-300
"""Numbers that differ by a smaller share, or by less, are drawn as one."""

BAR, LANE = 22, 18
"""The height of a bar and of a lane, in pixels."""

NAMES = 120
"""Pixels for the names of bars and lanes."""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. points: (x, y), in the order of x. band: (x, low, high) around it. colour: its number."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """The linear axis of numbers from `low` to `high` over `pixels` from `begin`, towards higher numbers. Both ends are numbers that are round."""

    low: float
    high: float
    begin: float
    pixels: float
    ticks: Sequence[float] = field(default=())

    @classmethod
    def of(cls, values: Iterable[float], begin: float, pixels: float, most: int = 5, within: tuple[float, float] | None = None) -> Axis:
        """An axis that holds all values, with at most `most` ticks or a few more. within: its ends, where they are known."""
        low, high = within or (min(values, default=0.0), max(values, default=1.0))
        size = max(abs(low), abs(high))
        if high - low <= max(ROUNDING * size, SMALLEST):  # there are no numbers for ticks between them
            around = size / 2 if size > SMALLEST else 0.5
            low, high = low - around, high + around
        step = _round_step((high - low) / most)
        if within is None:
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        first = math.ceil(low / step - 1e-9)
        ticks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
        return cls(low, high, begin, pixels, ticks)

    def at(self, value: float) -> float:
        return round(self.begin + (value - self.low) / (self.high - self.low) * self.pixels, 1)


def curves(series: Sequence[Series], title: str, x_name: str, rate: bool = False) -> str:
    """A chart of curves. rate: whether they are shares, shown in percent from 0 to 100."""
    finite = [one for one in series if one.points]
    if not finite:
        return ""
    heights = [y for one in finite for _, y in one.points] + [edge for one in finite for _, low, high in one.band for edge in (low, high)]
    across = Axis.of([x for one in finite for x, _ in one.points], LEFT, WIDTH - LEFT - RIGHT)
    up = Axis.of(heights, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM), within=(0.0, 1.0) if rate else None)
    parts = [_grid(across, up, x_name, rate)]
    for one in finite:
        colour = f"var(--series-{one.colour % SERIES})"
        if len(one.band) > 1:
            outline = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            parts.append(f'<polygon fill="{colour}" fill-opacity="0.15" points="{_path(outline, across, up)}"/>')
        if len(one.points) == 1:
            x, y = one.points[0]
            parts.append(f'<circle fill="{colour}" r="3" cx="{across.at(x)}" cy="{up.at(y)}"/>')
        else:
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round" points="{_path(one.points, across, up)}"/>')
    return _figure(title, WIDTH, HEIGHT, parts)


def bars(rows: Mapping[str, Mapping[str, float]], title: str, colours: Mapping[str, str]) -> str:
    """Stacked bars of shares, one for each row. colours: of the parts, as CSS."""
    whole, height = 2 * WIDTH, TOP + len(rows) * (BAR + 8)
    parts = []
    for number, (name, shares) in enumerate(rows.items()):
        top, left = TOP + number * (BAR + 8), float(NAMES)
        parts.append(f'<text class="name" x="{NAMES - 8}" y="{top + BAR * 0.7:.0f}" text-anchor="end">{escape(name)}</text>')
        for part, share in shares.items():
            wide = share * (whole - NAMES - RIGHT)
            said = f"{escape(part)} {100 * share:.1f} %"
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{max(wide, 0):.1f}" height="{BAR}" fill="{colours[part]}" {_seam(wide)}><title>{said}</title></rect>'
            )
            left += wide
    return _figure(title, whole, height, parts)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in a lane. begin, end: seconds. colour: as CSS."""

    name: str
    begin: float
    end: float
    colour: str


def lanes(rows: Mapping[str, Sequence[Stretch]], title: str, begin: float, end: float) -> str:
    """What each worker did from `begin` to `end`, in seconds: one lane each."""
    wide = 2 * WIDTH
    height = TOP + len(rows) * (LANE + 4) + BOTTOM
    across = Axis.of((), NAMES, wide - NAMES - RIGHT, most=8, within=(0.0, max(end - begin, 1e-6)))
    parts = [
        f'<line class="grid" x1="{across.at(tick)}" x2="{across.at(tick)}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{across.at(tick)}" y="{height - BOTTOM + 16}" text-anchor="middle">{_number(tick)} s</text>'
        for tick in across.ticks
    ]
    for number, (name, stretches) in enumerate(rows.items()):
        top = TOP + number * (LANE + 4)
        parts.append(f'<text class="name" x="{NAMES - 8}" y="{top + LANE * 0.75:.0f}" text-anchor="end">{escape(name)}</text>')
        for stretch in stretches:
            left, right = (across.at(min(max(moment - begin, 0.0), across.high)) for moment in (stretch.begin, stretch.end))
            said = f"{escape(stretch.name)}, {1000 * (stretch.end - stretch.begin):.0f} ms"
            parts.append(
                f'<rect x="{left}" y="{top}" width="{max(right - left, 0.3):.1f}" height="{LANE}" fill="{stretch.colour}"><title>{said}</title></rect>'
            )
    return _figure(title, wide, height, parts)


def _grid(across: Axis, up: Axis, x_name: str, rate: bool) -> str:
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up.at(tick)}" y2="{up.at(tick)}"/>'
        f'<text x="{LEFT - 6}" y="{up.at(tick) + 4}" text-anchor="end">{f"{100 * tick:.0f} %" if rate else _number(tick)}</text>'
        for tick in up.ticks
    ]
    parts += [f'<text x="{across.at(tick)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>' for tick in across.ticks]
    parts.append(f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _figure(title: str, width: int, height: int, parts: Iterable[str]) -> str:
    said = escape(title)
    return (
        f'<figure><figcaption>{said}</figcaption><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _path(points: Sequence[tuple[float, float]], across: Axis, up: Axis) -> str:
    return " ".join(f"{across.at(x)},{up.at(min(max(y, up.low), up.high))}" for x, y in points)


def _seam(wide: float) -> str:
    """A line between neighbours, where there is room for one."""
    return 'stroke="var(--page)" stroke-width="1"' if wide > 3 else ""


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _number(value: float) -> str:
    """0.30000000000000004 -> "0.3"; 120000 -> "120k"; 2500000 -> "2.5M"."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if sign == 'k' else limit):.4g}{sign}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"
