"""The report's contract: what a reader of version 1 relies on, and what counts as a failed run."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.node import report as reports
from shoal.node.report import (
    Baseline,
    Baselines,
    Chaos,
    Event,
    Final,
    GeneratedText,
    Point,
    Report,
    ReportedRound,
    faults,
)
from shoal.node.report_html import count, duration, render, size, tokens_so_far

A, B = "12D3KooWAAAAAA", "12D3KooWBBBBBB"


def a_round(number: int, **changes: Any) -> ReportedRound:
    values: dict[str, Any] = {
        "round": number,
        "contributors": (A, B),
        "state_digest": {A: "ab" * 32, B: "ab" * 32},
        "validation_loss": 2.5,
        "seconds": 1.5,
        "bytes_sent": {A: 100, B: 200},
        "tokens": {A: 1000, B: 3000},
    }
    return ReportedRound(**(values | changes))


def a_report(*rounds: ReportedRound, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "method": "diloco",
        "nodes": (A, B),
        "adversaries": (),
        "rounds": rounds,
        "baselines": None,
        "final": Final(validation_loss=2.5, tokens_per_member=2000, bytes_sent_total=300),
    }
    return Report(**(values | changes))


def test_a_report_has_the_keys_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    reports.write(a_report(a_round(1)), path)
    data = json.loads(path.read_text())
    assert data["version"] == 1
    assert data["baselines"] is None
    assert {"version", "method", "nodes", "adversaries", "rounds", "baselines", "final"} <= set(data)
    keys = {"round", "contributors", "state_digest", "validation_loss", "seconds", "bytes_sent"}
    assert keys <= set(data["rounds"][0])
    assert {"validation_loss", "tokens_per_member", "bytes_sent_total"} <= set(data["final"])


def test_a_report_of_version_1_alone_is_read_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(
        '{"version":1,"method":"zeroth","nodes":["a"],"adversaries":[],"rounds":[{"round":1,"contributors":["a"],'
        '"state_digest":{"a":"00"},"validation_loss":1,"seconds":2,"bytes_sent":{"a":3},"accuracy":0.5}],'
        '"baselines":{"alone":{"validation_loss":1},"synchronous":{"validation_loss":2}},'
        '"final":{"validation_loss":1,"tokens_per_member":4,"bytes_sent_total":3},"attempts":[1]}'
    )
    read = reports.read(path)
    assert read.rounds[0].bytes_sent == {"a": 3}
    assert read.baselines is not None
    assert read.baselines.synchronous.validation_loss == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version":2}', "\x00"])
def test_what_is_no_report_is_refused_with_a_reason(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a report of version 1"):
        reports.read(path)


@given(
    losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    prompt=st.text(max_size=20),
    after=st.text(max_size=50),
)
def test_a_report_reads_as_it_was_written(losses: list[float], prompt: str, after: str) -> None:
    rounds = [a_round(index + 1, validation_loss=loss) for index, loss in enumerate(losses)]
    samples = GeneratedText(prompt=prompt, before="", after=after)
    written = a_report(*rounds, samples=samples)
    assert msgspec.json.decode(msgspec.json.encode(written), type=Report) == written
    assert "<html" in render(written)


def test_equal_digests_in_all_rounds_are_no_fault() -> None:
    assert faults(a_report(a_round(1), a_round(2)), 2) == []


def test_a_node_that_was_down_is_absent_and_no_fault() -> None:
    assert faults(a_report(a_round(1, state_digest={A: "ab" * 32})), 1) == []


def test_a_round_that_did_not_close_is_a_fault() -> None:
    assert faults(a_report(a_round(1), a_round(3)), 3) == ["1 of 3 rounds did not close; the first of them is round 2"]


def test_honest_members_that_disagree_are_a_fault_that_names_them() -> None:
    (fault,) = faults(a_report(a_round(1, state_digest={A: "ab" * 32, B: "cd" * 32})), 1)
    assert "after round 1" in fault
    assert "AAAAAA abababab, BBBBBB cdcdcdcd" in fault


def test_an_adversary_may_claim_any_digest() -> None:
    assert faults(a_report(a_round(1, state_digest={A: "ab" * 32, B: "cd" * 32}), adversaries=(B,)), 1) == []


def test_training_that_diverged_is_a_fault() -> None:
    assert "diverged" in faults(a_report(a_round(1, validation_loss=math.inf)), 1)[0]


def test_tokens_per_member_count_only_what_rounds_took() -> None:
    rounds = [a_round(1), a_round(2, contributors=(A,))]
    assert tokens_so_far(rounds, (A, B)) == [2000.0, 2500.0]


def test_the_page_is_self_contained_and_shows_the_faults_and_the_figures() -> None:
    baselines = Baselines(alone=Baseline(validation_loss=2.75), synchronous=Baseline(validation_loss=2.25))
    page = render(a_report(a_round(1), baselines=baselines), rounds_expected=2)
    assert "1 of 2 rounds did not close" in page
    assert "+0.250" in page
    assert "http" not in page
    assert "<script" not in page


def test_generated_text_cannot_break_the_page() -> None:
    samples = GeneratedText(prompt="<b>", before="</pre><script>\x00\x1b[31m", after="fine\nlines")
    page = render(a_report(a_round(1), samples=samples))
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;··[31m" in page
    assert "fine\nlines" in page


def test_the_page_says_which_router_each_node_was_behind() -> None:
    assert "routers: public, port_restricted" in render(a_report(a_round(1), routers=("public", "port_restricted")))


def test_a_run_without_rounds_has_a_page() -> None:
    assert "nothing to show" in render(a_report())


def test_long_runs_share_bars() -> None:
    page = render(a_report(*(a_round(number) for number in range(1, 401))))
    assert page.count('class="bar') <= 2 * 96
    assert "1-5" in page


def test_figures_are_written_for_people() -> None:
    assert [count(9_999), count(51_200), count(614_400), count(2.5e6)] == ["9,999", "51.2 k", "614.4 k", "2.5 M"]
    assert [size(12), size(3_400_000), size(5.36e9)] == ["12 B", "3.4 MB", "5.36 GB"]
    assert [duration(0.25), duration(105.3), duration(185)] == ["0.25 s", "105 s", "3 min 05 s"]


def test_who_is_missing_in_the_last_round_after_chaos_is_a_fault_that_names_it() -> None:
    lacking = a_round(2, contributors=(A,), state_digest={A: "ab" * 32})
    found = faults(a_report(a_round(1), lacking, chaos=Chaos(seed=7, is_over=True)), 2)
    assert [line.split(",")[0] for line in found] == [
        "node BBBBBB did not close round 2",
        "node BBBBBB has no contribution in round 2",
    ]
    assert faults(a_report(lacking, a_round(3), chaos=Chaos(seed=7, is_over=True)), 0) == []


def test_a_run_that_was_interrupted_amid_chaos_need_not_have_everybody() -> None:
    lacking = a_round(1, contributors=(A,), state_digest={A: "ab" * 32})
    assert faults(a_report(lacking, chaos=Chaos(seed=7)), 1) == []


def test_records_that_do_not_verify_are_a_fault() -> None:
    unsound = "the log of node 3 does not verify: round 9"
    assert faults(a_report(a_round(1), chaos=Chaos(seed=7, is_over=True, unsound=(unsound,))), 1) == [unsound]


def test_a_run_with_chaos_shows_what_was_done_to_whom_and_what_the_same_reach_undisturbed(tmp_path: Path) -> None:
    undisturbed = Baseline(validation_loss=2.0, curve=(Point(0, 3.0), Point(4000, 2.0)))
    report = a_report(
        a_round(1, closed_at={A: 1.0, B: 1.5}, attempts=3),
        a_round(2),
        chaos=Chaos(seed=7, is_over=True, left_out="no bridges", undisturbed=undisturbed),
        events=(Event(time=1.0, until=2.5, kind="freeze", nodes=(B,)),),
        seconds=3.0,
    )
    page = render(report)
    for part in (
        "BBBBBB: frozen from 1.0 s to 2.5 s",
        "AAAAAA closed round 1 after 1.0 s",
        "Without partitions: no bridges.",
        "1.250",
        "the same undisturbed",
        "<td>3</td>",
        "chaos 7",
    ):
        assert part in page
    reports.write(report, tmp_path / "report.json")
    assert reports.read(tmp_path / "report.json") == report
