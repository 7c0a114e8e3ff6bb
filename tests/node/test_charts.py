"""Charts: that what is drawn is where the numbers say, and that it is well-formed whatever they are."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Lane,
    Line,
    Stack,
    Stretch,
    lanes_chart,
    line_chart,
    nice_ticks,
    stacked_bars,
)

X = Axis("tokens & more", lambda value: f"{value:g}")
Y = Axis("nats <per> byte", lambda value: f"{value:g}")
MOST = 1e12
finite = st.floats(min_value=-MOST, max_value=MOST, allow_nan=False)


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


@given(finite, finite)
def test_ticks_are_few_rise_evenly_and_span_the_values(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9


def test_ticks_are_round_numbers() -> None:
    assert nice_ticks(2.02, 3.07) == [2.0, 2.25, 2.5, 2.75, 3.0, 3.25]
    assert nice_ticks(0, 12, step_least=1) == [0, 5, 10, 15]
    assert nice_ticks(0, 2, step_least=1) == [0, 1, 2]
    assert nice_ticks(0, 614_400) == [0, 200_000, 400_000, 600_000, 800_000]


def test_a_line_goes_from_the_left_to_the_right_and_down_as_the_loss_falls() -> None:
    svg = parse(line_chart("Loss", [Line("swarm", ((0.0, 3.0), (100.0, 2.0)), 0)], X, Y))
    (line,) = svg.iter("polyline")
    assert line.attrib["points"] == f"{LEFT:.1f},{TOP:.1f} {WIDTH - RIGHT:.1f},{HEIGHT - BOTTOM:.1f}"
    assert [title.text for title in svg.iter("title")] == ["swarm: 2 at 100", "swarm: 3 at 0"]


def test_both_axes_are_labelled_and_text_is_escaped() -> None:
    svg = parse(line_chart("Loss", [Line("a<b", ((0.0, 3.0),), 0), Line("c", ((1.0, 1.0),), 9)], X, Y))
    texts = [text.text for text in svg.iter("text")]
    assert "tokens & more" in texts
    assert "nats <per> byte" in texts


def test_values_that_are_not_finite_are_left_out() -> None:
    svg = parse(line_chart("Loss", [Line("a", ((1.0, math.nan), (2.0, math.inf), (3.0, 1.0)), 0)], X, Y))
    assert len(list(svg.iter("title"))) == 1


def test_bars_stand_on_each_other() -> None:
    svg = parse(stacked_bars("Bytes", ["1"], [Stack("a", (30.0,), 0), Stack("b", (70.0,), 1)], X, Y))
    lower, upper = list(svg.iter("rect"))
    top = float(upper.attrib["y"])
    assert top + float(upper.attrib["height"]) == pytest.approx(float(lower.attrib["y"]), abs=0.11)
    assert float(lower.attrib["y"]) + float(lower.attrib["height"]) == pytest.approx(HEIGHT - BOTTOM, abs=0.11)


def test_a_stack_with_too_few_values_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="2 bars"):
        stacked_bars("Bytes", ["1", "2"], [Stack("a", (1.0,), 0)], X, Y)


@given(st.lists(st.tuples(finite, finite), max_size=30), st.lists(st.floats(min_value=0, max_value=MOST), max_size=30))
def test_any_values_give_well_formed_markup(points: list[tuple[float, float]], values: list[float]) -> None:
    parse(line_chart("t", [Line("a", tuple(sorted(points)), 0)], X, Y))
    bars = [str(index) for index in range(len(values))]
    parse(stacked_bars("t", bars, [Stack("a", tuple(values), 0), Stack("b", tuple(values), 1)], X, Y))


def test_a_stretch_lies_in_its_lane_where_its_times_say() -> None:
    lanes = [Lane("a", ()), Lane("b<", (Stretch(25.0, 50.0, 5, "b: killed"), Stretch(90.0, 400.0, 0, "b: frozen")))]
    svg = parse(lanes_chart("Lanes", lanes, 100.0, [("killed", 5), ("frozen", 0)], X))
    bars = [bar for bar in svg.iter("rect") if "bar" in bar.attrib["class"]]
    width = WIDTH - LEFT - RIGHT
    assert [float(bar.attrib["x"]) for bar in bars] == [LEFT + width * 0.25, pytest.approx(LEFT + width * 0.9, abs=0.1)]
    assert [float(bar.attrib["width"]) for bar in bars] == [width * 0.25, pytest.approx(width * 0.1, abs=0.1)]
    calm = [bar.attrib["y"] for bar in svg.iter("rect") if bar.attrib["class"] == "calm"]
    assert {bar.attrib["y"] for bar in bars} == {calm[1]}
    assert "b<" in [text.text for text in svg.iter("text")]


def test_marks_of_a_lane_carry_titles_and_those_beyond_the_end_are_left_out() -> None:
    svg = parse(lanes_chart("Lanes", [Lane("a", (), ((5.0, "round 1"), (11.0, "round 2")))], 10.0, [], X))
    assert [mark[0].text for mark in svg.iter("line") if mark.attrib["class"] == "mark"] == ["round 1"]


def test_a_run_that_ended_at_once_is_drawn_all_the_same() -> None:
    svg = parse(lanes_chart("Lanes", [Lane("a", (), ((0.0, "round 1"),))], 0.0, [], X))
    assert [mark[0].text for mark in svg.iter("line") if mark.attrib["class"] == "mark"] == ["round 1"]
    assert [text.text for text in svg.iter("text") if text.attrib.get("text-anchor") == "middle"] == ["0", X.label]


def test_lines_of_a_group_share_an_entry_of_the_legend() -> None:
    lines = [Line(name, ((0.0, 1.0),), 6, group="both") for name in "ab"] + [Line("c", ((0.0, 2.0),), 1)]
    keys = [key[0].tail for key in parse(line_chart("Loss", lines, X, Y)).iter("span")]
    assert keys == ["both", "c"]
