"""The fold from what nodes tell to rounds."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.report import Event, Report, ReportedRound, faults
from shoal.node.tally import Tally
from shoal.training.events import Went
from shoal.training.replaying import Way

A, B = "peer-a", "peer-b"
DIGEST = "ab" * 32


def closed(round: int, **changes: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event": "RoundClosed",
        "round": round,
        "contributors": [A, B],
        "state_digest": DIGEST,
        "seconds": 2.0,
        "phases": {"train": 1.5, "exchange": 0.4, "apply": 0.1},
        "bytes_sent": 100,
        "bytes_received": 90,
        "own_taken": True,
        "proposer": A,
    }
    return event | changes


def local(round: int, tokens: int = 512) -> dict[str, Any]:
    return {
        "event": "LocalDone",
        "round": round,
        "samples": 4,
        "seconds": 0.5,
        "metrics": {"loss": 3.0, "tokens": float(tokens)},
    }


def evaluated(round: int, loss: float = 2.5) -> dict[str, Any]:
    return {"event": "Evaluated", "round": round, "metrics": {"validation_loss": loss}}


def a_run(rounds: int) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        for peer in (A, B):
            events.append((peer, {"event": "RoundStarted", "round": number}))
            events.append((peer, local(number)))
            events.append((peer, closed(number)))
            events.append((peer, evaluated(number)))
    return events


def tally_of(events: list[tuple[str, dict[str, Any]]]) -> Tally:
    tally = Tally([B, A])
    tally.started(A)
    tally.started(B)
    for index, (peer, event) in enumerate(events):
        tally.add(peer, event, now=float(index))
    return tally


def test_a_run_becomes_a_report() -> None:
    report = tally_of(a_run(3)).report("diloco")
    assert report.nodes == (A, B)
    assert [entry.round for entry in report.rounds] == [1, 2, 3]
    assert report.rounds[0].state_digest == {A: DIGEST, B: DIGEST}
    assert report.rounds[0].tokens == {A: 512, B: 512}
    assert report.final.tokens_per_member == 3 * 512
    assert report.final.bytes_sent_total == 3 * 200
    assert report.final.validation_loss == 2.5
    assert report.seconds > 0
    assert faults(report, 3) == []


def timeless(report: Report) -> list[ReportedRound]:
    return [msgspec.structs.replace(entry, closed_at={}) for entry in report.rounds]


@given(st.data())
def test_events_may_come_in_any_interleaving_and_twice(data: st.DataObject) -> None:
    events = a_run(2)
    of_a, of_b = [e for e in events if e[0] == A], [e for e in events if e[0] == B]
    mixed: list[tuple[str, dict[str, Any]]] = []
    while of_a or of_b:
        source = of_a if of_a and (not of_b or data.draw(st.booleans())) else of_b
        mixed.append(source.pop(0))
    again = data.draw(st.integers(0, len(mixed)))
    report, expected = tally_of(mixed + mixed[:again]).report("diloco"), tally_of(events).report("diloco")
    assert timeless(report) == timeless(expected)
    assert report.final == expected.final


def test_a_node_that_was_down_is_absent_from_the_rounds_it_missed() -> None:
    events = a_run(3)
    without = [e for e in events if not (e[0] == B and e[1]["round"] == 2)]
    entry = tally_of(without).report("diloco").rounds[1]
    assert set(entry.state_digest) == set(entry.bytes_sent) == {A}


def test_a_round_nobody_evaluated_is_not_reported_as_closed() -> None:
    report = tally_of([(peer, closed(1)) for peer in (A, B)]).report("diloco")
    assert report.rounds == ()
    assert faults(report, 1) != []


def test_members_that_took_different_sets_are_shown_with_their_digests() -> None:
    events = [(A, closed(1)), (A, evaluated(1)), (B, closed(1, state_digest="cd" * 32, contributors=[B]))]
    report = tally_of(events).report("diloco")
    assert "disagree" in faults(report, 1)[0]


def test_the_run_has_finished_when_all_running_nodes_say_so_and_the_last_state_is_evaluated() -> None:
    tally = tally_of(a_run(2))
    finished = {"event": "Finished", "round": 2}
    tally.add(A, finished, 50.0)
    assert not tally.has_finished
    tally.stopped(B, "killed")
    assert tally.has_finished
    tally.started(B)
    assert not tally.has_finished
    tally.add(B, finished, 51.0)
    assert tally.has_finished


def test_rounds_closed_are_those_of_the_slowest_running_node() -> None:
    tally = tally_of([(A, closed(1)), (A, closed(2)), (B, closed(1))])
    assert tally.rounds_closed() == 1
    tally.stopped(B, "killed")
    assert tally.rounds_closed() == 2


def test_going_down_and_coming_back_are_incidents() -> None:
    tally = tally_of(a_run(2))
    tally.stopped(B, "killed")
    tally.started(B)
    tally.add(B, {"event": "Resynced", "from_round": 2, "to_round": 4, "source": A}, 60.0)
    assert [one.what for one in tally.report("diloco").incidents] == [
        "went down: killed",
        "started again",
        "resynchronized from round 2 to round 4",
    ]
    assert tally.newest_round(B) == 4
    assert tally.digest(B, 4) is None


def test_the_way_to_anothers_state_is_an_incident() -> None:
    tally = tally_of(a_run(2))
    went = Went(Way.LOG, 2, 9, False, "it should be faster", 300, 0.5)
    tally.add(B, json.loads(json.dumps(went.as_json())), 60.0)
    (incident,) = tally.report("diloco").incidents
    assert incident.what == "to round 9 by log: led nowhere (it should be faster)"


def test_the_time_left_follows_from_the_rounds_so_far() -> None:
    tally = Tally([A])
    tally.started(A)
    tally.add(A, {"event": "RoundStarted", "round": 1}, now=100.0)
    assert tally.view(4, now=105.0).left_s is None
    tally.add(A, closed(1), now=110.0)
    view = tally.view(4, now=112.0)
    assert (view.elapsed_s, view.left_s) == (12.0, 28.0)


def test_the_table_shows_the_newest_figures() -> None:
    tally = tally_of([*a_run(2), (A, {"event": "Waiting", "reason": "for 1 more"})])
    tally.connected(A, 1)
    row = tally.view(2, now=20.0).rows[0]
    assert (row.round, row.training_loss, row.validation_loss, row.tokens_per_s) == (2, 3.0, 2.5, 1024.0)
    assert (row.bytes_sent, row.bytes_received, row.peers, row.digest) == (200, 180, 1, DIGEST)
    assert row.doing == "waiting: for 1 more"


@given(
    st.dictionaries(st.sampled_from(["event", "round", "metrics", "reason"]), st.sampled_from(["Waiting", 1, None, {}]))
)
def test_unknown_kinds_of_events_are_passed_over(event: dict[str, Any]) -> None:
    view = tally_of([(A, event)]).view(None, now=9.0)
    assert (view.rounds_closed, view.elapsed_s) == (0, 0.0)


def test_what_befell_nodes_is_reported_in_seconds_since_training_began() -> None:
    tally = tally_of(a_run(2))  # the clock began at 0 and ended at 14, when the last round was closed
    first = tally.befell("kill", [B], 3.0)
    tally.befell("partition", [B, A], 4.0)
    tally.passed(first, 6.5)
    assert tally.report("diloco").events == (
        Event(kind="kill", nodes=(B,), time=3.0, until=6.5),
        Event(kind="partition", nodes=(A, B), time=4.0, until=14.0),  # it goes on
    )


def test_each_round_says_when_each_closed_it_and_how_many_attempts_it_took() -> None:
    events = [(A, {"event": "RoundStarted", "round": 1}), (A, closed(1, attempt=2)), (B, closed(1)), (A, evaluated(1))]
    tally = tally_of(events)
    tally.add(A, closed(1, attempt=2), now=50.0)  # told once more
    (entry,) = tally.report("diloco").rounds
    assert entry.attempts == 3
    assert entry.closed_at == {A: 1.0, B: 2.0}


def test_a_whole_round_is_one_that_all_took_part_in_closed_and_one_evaluated() -> None:
    assert tally_of(a_run(3)).newest_whole_round() == 3
    for missing in (closed(3, contributors=[A]), evaluated(1)):
        lacking = [event for event in a_run(2) if event[1]["event"] != "Evaluated" or event[1]["round"] == 1]
        lacking += [(peer, missing) for peer in (A, B)]
        assert tally_of(lacking).newest_whole_round() == 1
    assert tally_of([event for event in a_run(2) if event[0] == A]).newest_whole_round() == 0


def test_a_report_may_end_before_the_newest_round() -> None:
    assert [entry.round for entry in tally_of(a_run(3)).report("diloco", last=2).rounds] == [1, 2]


def test_how_a_run_goes_is_judged_by_its_honest_nodes() -> None:
    tally = Tally([A, B], {B: "nan"})
    tally.started(A)
    tally.started(B)
    tally.add(A, closed(1, weights={A: 0.75, B: 0.25}), now=0.0)
    tally.add(A, evaluated(1), now=0.0)
    tally.add(B, closed(7, state_digest="cd" * 32), now=0.0)
    tally.add(B, evaluated(1, loss=99.0), now=0.0)
    assert tally.rounds_closed() == 1
    assert not tally.has_finished
    tally.add(A, {"event": "Finished", "round": 1}, now=0.0)
    assert tally.has_finished
    report = tally.report("diloco")
    assert (report.adversaries, report.attacks) == ((B,), {B: "nan"})
    (entry,) = report.rounds
    assert (entry.weights, entry.validation_loss) == ({A: 0.75, B: 0.25}, 2.5)
    assert faults(report, 1) == []
