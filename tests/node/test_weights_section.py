"""What a report shows of adversaries: everybody's weight as lines, and each kind's fate in words."""

from typing import Any
from xml.etree import ElementTree

from shoal.node.report import Final, Report, ReportedRound
from shoal.node.report_html import render
from shoal.node.weights_section import HONEST, KIND_COLORS, fates, weights_chart

A, B, C, D = (f"12D3KooW{letter * 6}" for letter in "ABCD")
NAMES = {peer: peer[-6:] for peer in (A, B, C, D)}


def a_round(number: int, weights: dict[str, float]) -> ReportedRound:
    return ReportedRound(
        round=number,
        contributors=tuple(sorted(weights)),
        state_digest={},
        validation_loss=2.5,
        seconds=1.0,
        bytes_sent={},
        weights=weights,
    )


def a_report(*rounds: ReportedRound, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "method": "diloco",
        "nodes": (A, B, C, D),
        "adversaries": (C, D),
        "attacks": {C: "nan", D: "sign<flip"},
        "rounds": rounds,
        "baselines": None,
        "final": Final(validation_loss=2.5, tokens_per_member=0, bytes_sent_total=0),
    }
    return Report(**(values | changes))


RUN = (a_round(1, {A: 0.5, B: 0.25, D: 0.25}), a_round(2, {A: 0.5, B: 0.5, D: 0.0}))


def drawn(report: Report) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{weights_chart(report, NAMES)}</div>")


def test_everybody_has_a_line_and_each_kind_a_colour_that_the_honest_do_not_have() -> None:
    svg = drawn(a_report(*RUN))
    colors = [line.attrib["class"] for line in svg.iter("polyline")]
    assert colors == [*[f"line l{HONEST}"] * 2, *(f"line l{color} dashed" for color in KIND_COLORS[:2])]
    assert HONEST not in KIND_COLORS
    assert [key.text or key[0].tail for key in svg.iter("span")] == ["honest (2)", "nan", "sign<flip"]


def test_who_had_no_weight_in_a_round_had_none() -> None:
    titles = [title.text for title in drawn(a_report(*RUN)).iter("title")]
    assert "CCCCCC, nan: 0% at 1" in titles
    assert "DDDDDD, sign<flip: 25% at 1" in titles
    assert "AAAAAA: 50% at 2" in titles


def test_without_adversaries_the_members_are_told_apart() -> None:
    svg = drawn(a_report(*RUN, adversaries=(), attacks={}))
    assert len({line.attrib["class"] for line in svg.iter("polyline")}) == 4


def test_a_report_from_before_weights_were_told_has_no_chart() -> None:
    assert weights_chart(a_report(a_round(1, {})), NAMES) == ""
    assert "Weight of each member" not in render(a_report(a_round(1, {})))


def test_the_page_names_the_kinds_and_what_became_of_them() -> None:
    page = render(a_report(*RUN))
    assert "Of the 4 nodes 2 attacked. nan: 0% of all weight in the last round, taken in none of 2 rounds." in page
    assert "sign&lt;flip: 0% of all weight in the last round, taken in 2 of 2 rounds, but counts for nothing." in page
    assert "swarm of 2" in page


def test_fates_are_of_a_kind_and_say_who_was_voted_out() -> None:
    both = a_report(*RUN, attacks={C: "zero", D: "zero"}, barred=(D,))
    assert fates(both) == [
        "zero (2): 0% of all weight in the last round, taken in 2 of 2 rounds, but counts for nothing, 1 of 2 voted out"
    ]
    one = a_report(RUN[0], attacks={D: "zero"}, barred=(D,))
    assert fates(one) == ["zero: 25% of all weight in the last round, taken in 1 of 1 rounds, voted out"]
    assert fates(a_report(*RUN, banned={A: 66}))[-1] == "of 2 honest members 1 banned or voted out"
    banned = fates(a_report(*RUN, attacks={C: "zero", D: "zero"}, banned={C: 66, D: 67}))
    assert banned[0].endswith(", but counts for nothing, banned")
    assert fates(a_report()) == ["nan: no round closed", "sign<flip: no round closed"]
