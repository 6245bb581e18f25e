"""Line charts as SVG, drawn here so that a page needs nothing from elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 12, 38  # half of the last label lies right of the axis
# Lines differ in dashes too, for readers who do not tell the colours apart.
DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the legend.
        x: positions, rising.
        y: finite values, one for each position.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over a common axis.

    Attributes:
        title: what is shown.
        x_label: name and unit of the horizontal axis.
        series: the lines, four at most.
        percent: values are fractions in [0, 1], labelled as per cent; the axis then shows all of 0 to 100.
    """

    title: str
    x_label: str
    series: tuple[Series, ...]
    percent: bool = False

    @property
    def svg(self) -> str:
        """The chart as an SVG element; colours come from the page's style (`--line-0` ...)."""
        return draw(self)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(name, dash pattern) of every line."""
        return [(series.name, DASHES[number]) for number, series in enumerate(self.series)]


def draw(chart: Chart) -> str:
    """Draw a chart.

    Raises:
        ValueError: it has no lines, more than four, or a line without points.
    """
    if not 1 <= len(chart.series) <= len(DASHES) or any(len(s.x) != len(s.y) or not len(s.x) for s in chart.series):
        raise ValueError(f"chart {chart.title!r} needs one to four lines with equally many x and y")
    xs = [x for series in chart.series for x in series.x]
    ys = [y for series in chart.series for y in series.y]
    x_ticks = ticks(min(0.0, *xs) if len(xs) > 1 else 0.0, max(xs), 5)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if chart.percent else ticks(min(ys), max(ys), 4)

    def place_x(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def place_y(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title, quote=True)}">']
    for tick in y_ticks:
        y = place_y(tick)
        label = f"{tick:.0%}" if chart.percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    parts += [
        f'<text x="{place_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(chart.x_label)}</text>')
    for number, series in enumerate(chart.series):
        points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(series.x, series.y, strict=True))
        dash = f' stroke-dasharray="{DASHES[number]}"' if DASHES[number] else ""
        parts.append(f'<polyline class="line line-{number}" points="{points}"{dash}/>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values that enclose [low, high], roughly `about` of them, spaced by 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
