"""Charts as HTML text with SVG inside: lines, stacked bars and lanes, without script, font or any file beside them.

Colours come from the page: `STYLE` defines them for light and dark, charts only name classes. Everything that a mouse
can point at carries a <title>, which browsers show as a tooltip and screen readers read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 34, 52  # margins for the ticks and labels
MIDDLE = (LEFT + WIDTH - RIGHT) / 2
NOTHING = f'<text x="{MIDDLE}" y="{HEIGHT / 2}" text-anchor="middle">nothing to show</text>'
LANE = 26  # the height of a lane, with the gap to the next
COLORS = 8  # series beyond it repeat the colours
MARKERS_MAX = 60  # points of one line that get a visible dot
DRAWN_MAX = 1e15  # beyond it a value is a training run that diverged: an axis for it would hide all others
TICKS = 5  # wished for; the axis takes the nearest round step

STYLE = """
:root{--ink:#1c2733;--soft:#5d6b7a;--grid:#e3e8ee;--paper:#fff;--page:#f4f6f9;--edge:#dde3ea;--good:#1d7f4f;--bad:#b3261e;
--c0:#1f6feb;--c1:#d9730d;--c2:#16917a;--c3:#a83fb0;--c4:#8a6d0b;--c5:#cf3759;--c6:#4b6584;--c7:#5b8c1a}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf3;--soft:#9aa8b8;--grid:#2b3541;--paper:#161d26;--page:#0e141b;--edge:#2a3440;
--good:#56d08f;--bad:#ff8a80;
--c0:#6aa7ff;--c1:#ffa657;--c2:#4fd0b6;--c3:#de8fe6;--c4:#e0c14d;--c5:#ff8fa6;--c6:#a9bdd4;--c7:#a5d65b}}
svg.chart{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
.chart text{fill:var(--soft)}.chart .axis{fill:var(--ink)}
.chart .grid{stroke:var(--grid)}.chart .base{stroke:var(--soft)}
.chart .line{fill:none;stroke-width:2.25;stroke-linejoin:round;stroke-linecap:round}.chart .dashed{stroke-dasharray:7 5}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font:13px system-ui,sans-serif;margin:0 0 8px 10px}
.legend span{display:flex;align-items:center;gap:6px}.legend i{width:11px;height:11px;border-radius:3px}
.chart .calm{fill:var(--grid)}.chart .mark{stroke:var(--ink);stroke-width:1.2}.chart .mark:hover{stroke-width:3}
.chart .hit{fill:transparent}.chart g.dot:hover .mark{r:5.5}.chart .bar:hover{opacity:.72}
""" + "".join(
    f".l{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}.b{i}{{background:var(--c{i})}}" for i in range(COLORS)
)


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis measures: `label` names it with its unit, `show` writes a value for ticks and tooltips."""

    label: str
    show: Callable[[float], str]
    step_least: float = 0.0  # between ticks; 1 where only whole numbers make sense


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[tuple[float, float], ...]  # sorted by x, not negative; what is not finite is left out
    color: int
    is_dashed: bool = False
    group: str = ""  # what the legend calls it, once, with all others of this group; empty: its name


@dataclass(frozen=True, slots=True)
class Stack:
    """One part of every bar."""

    name: str
    values: tuple[float, ...]  # one per bar, not negative
    color: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a lane."""

    start: float
    end: float
    color: int
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """What befell one of several along the same axis."""

    name: str
    stretches: tuple[Stretch, ...]  # later ones are drawn over earlier ones
    marks: tuple[tuple[float, str], ...] = ()  # places on the axis and their titles


def nice_ticks(low: float, high: float, step_least: float = 0.0, wished: int = TICKS) -> list[float]:
    """Round numbers from at most `low` to at least `high`, at steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = abs(high) * 0.1 + 1e-9
        low, high = low - pad, high + pad
    rough = max((high - low) / max(1, wished), step_least)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if step_least and power <= step_least else (1, 2, 2.5, 5, 10)
    step = next(factor * power for factor in factors if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_chart(title: str, lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> str:
    """Lines over a common x axis that starts at 0; the y axis spans the values, for losses never come near 0."""
    drawn = [(line, [(x, y) for x, y in line.points if 0 <= x <= DRAWN_MAX and abs(y) <= DRAWN_MAX]) for line in lines]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    if not xs:
        return _frame(title, NOTHING, [], x_axis, y_axis)
    legend = list(dict.fromkeys((line.group or line.name, line.color) for line in lines))
    x_ticks, y_ticks = nice_ticks(0.0, max(xs), x_axis.step_least), nice_ticks(min(ys), max(ys), y_axis.step_least)
    x_of, y_of = _scale(x_ticks[0], max(xs), LEFT, WIDTH - RIGHT), _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [_y_grid(y_ticks, y_of, y_axis)]
    body += [_x_tick(x_of(tick), x_axis.show(tick)) for tick in x_ticks if tick <= max(xs) * 1.0001]
    for line, points in drawn:
        place = [(x_of(x), y_of(y)) for x, y in points]
        style = f"line l{line.color % COLORS}" + (" dashed" if line.is_dashed else "")
        body.append(f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in place)}"/>')
        step = math.ceil(len(points) / MARKERS_MAX) or 1
        for (x, y), (px, py) in list(zip(points, place, strict=True))[::-step]:
            tip = escape(f"{line.name}: {y_axis.show(y)} at {x_axis.show(x)}")
            body.append(
                f'<g class="dot"><circle class="mark f{line.color % COLORS}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
                f'<circle class="hit" cx="{px:.1f}" cy="{py:.1f}" r="11"><title>{tip}</title></circle></g>'
            )
    return _frame(title, "".join(body), legend, x_axis, y_axis)


def stacked_bars(title: str, bars: Sequence[str], stacks: Sequence[Stack], x_axis: Axis, y_axis: Axis) -> str:
    """One bar per name in `bars`, cut into the stacks from the bottom up. The names are the ticks; `x_axis` is a label.

    Raises:
        ValueError: a stack has more or fewer values than there are bars.
    """
    if any(len(stack.values) != len(bars) for stack in stacks):
        raise ValueError(f"each stack needs one value for each of the {len(bars)} bars")
    totals = [sum(stack.values[index] for stack in stacks) for index in range(len(bars))]
    if not bars or max(totals) <= 0:
        return _frame(title, NOTHING, [], x_axis, y_axis)
    y_ticks = nice_ticks(0.0, max(totals))
    y_of = _scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    wide = min(slot * 0.72, 46.0)
    every = math.ceil(len(bars) / 16)
    body = [_y_grid(y_ticks, y_of, y_axis)]
    for index, name in enumerate(bars):
        middle = LEFT + slot * (index + 0.5)
        if index % every == 0:
            body.append(_x_tick(middle, name))
        bottom = 0.0
        for stack in stacks:
            value = stack.values[index]
            top = bottom + value
            if value > 0:
                tip = escape(
                    f"{x_axis.label} {name}, {stack.name}: {y_axis.show(value)} of {y_axis.show(totals[index])}"
                )
                body.append(
                    f'<rect class="bar f{stack.color % COLORS}" x="{middle - wide / 2:.1f}" y="{y_of(top):.1f}" '
                    f'width="{wide:.1f}" height="{y_of(bottom) - y_of(top):.1f}"><title>{tip}</title></rect>'
                )
            bottom = top
    return _frame(title, "".join(body), [(stack.name, stack.color) for stack in stacks], x_axis, y_axis)


def lanes_chart(title: str, lanes: Sequence[Lane], end: float, legend: Sequence[tuple[str, int]], x_axis: Axis) -> str:
    """A lane below the other for each, from 0 to `end`; what lies beyond is cut off."""
    height = TOP + LANE * len(lanes) + BOTTOM
    x_of = _scale(0.0, end, LEFT, WIDTH - RIGHT)
    body = [_x_tick(x_of(tick), x_axis.show(tick), height) for tick in nice_ticks(0, end) if 0 <= tick <= end * 1.0001]
    for index, lane in enumerate(lanes):
        top = TOP + LANE * index
        body.append(f'<text x="{LEFT - 8}" y="{top + LANE / 2 + 1}" text-anchor="end">{escape(lane.name)}</text>')
        body.append(_bar("calm", x_of(0.0), x_of(end), top, f"{lane.name}: up"))
        for each in lane.stretches:
            start, stop = (x_of(min(max(0.0, place), end)) for place in (each.start, each.end))
            body.append(_bar(f"bar f{each.color % COLORS}", start, stop, top, each.title))
        body += [
            f'<line class="mark" x1="{x_of(place):.1f}" x2="{x_of(place):.1f}" y1="{top + 4}" y2="{top + LANE - 10}">'
            f"<title>{escape(text)}</title></line>"
            for place, text in lane.marks
            if 0 <= place <= end
        ]
    return _frame(title, "".join(body), legend, x_axis, Axis("", str), height=height)


def _bar(style: str, start: float, stop: float, top: float, title: str) -> str:
    return (
        f'<rect class="{style}" x="{start:.1f}" y="{top}" width="{max(1.5, stop - start):.1f}" height="{LANE - 6}" '
        f'rx="3"><title>{escape(title)}</title></rect>'
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The map from values in [low, high] to pixels in [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _y_grid(ticks: Sequence[float], y_of: Callable[[float], float], axis: Axis) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{escape(axis.show(tick))}</text>'
        for tick in ticks
    )


def _x_tick(x: float, text: str, height: int = HEIGHT) -> str:
    return f'<text x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{escape(text)}</text>'


def _frame(
    title: str, body: str, legend: Sequence[tuple[str, int]], x_axis: Axis, y_axis: Axis, *, height: int = HEIGHT
) -> str:
    """The chart around its body: legend, base line, axis labels. The legend is HTML, because only that wraps."""
    keys = "".join(
        f'<span><i class="b{color % COLORS}"></i>{escape(name)}</span>'
        for name, color in (legend if len(legend) > 1 else ())
    )
    return (
        f'<div class="legend">{keys}</div>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'{body}<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height - BOTTOM}" y2="{height - BOTTOM}"/>'
        f'<text class="axis" x="{MIDDLE}" y="{height - 10}" text-anchor="middle">{escape(x_axis.label)}</text>'
        f'<text class="axis" x="10" y="14">{escape(y_axis.label)}</text></svg>'
    )
