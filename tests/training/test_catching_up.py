"""How a member that is behind gets on: by the log, then record by record or by a checkpoint; a lie costs a request."""

from collections.abc import Mapping, Set

from shoal.training.agreed import Position
from shoal.training.calls import LOG_TOLD_MAX
from shoal.training.catching_up import PAUSE_S, CatchingUp
from shoal.training.compacting import Compacting
from shoal.training.effects import AskLog, AskProof, Collect, Effect, Resync
from shoal.training.judging import View
from shoal.training.ledger import Closed, Ledger, closed_by
from shoal.training.log import ROUNDS_SERVED
from shoal.training.pool import Pool
from shoal.training.records import Head, Offered
from shoal.transport.port import PeerId
from tests.training.round_member import (
    ANN,
    BEN,
    CAT,
    DIGEST,
    SPEC,
    START,
    SWARM,
    THREE,
    admission,
    contribution,
    ended,
    events,
    of_kind,
    record_of,
)

PATIENCE_S = 7.0
PEERS = sorted((BEN.peer_id, CAT.peer_id))
Told = Mapping[Head, Set[PeerId]]


class Behind:
    """Ann at the start, with so many rounds of the others' known: Ben's contribution is taken in each."""

    def __init__(self, rounds: int, *, can_apply: bool = True) -> None:
        self.catching_up = CatchingUp(PATIENCE_S, can_apply=can_apply)
        self.ledger, self.position, self.head = Ledger(THREE), THREE, START
        self.pool = Pool(100, can_check=True)
        self.heads, self.taken = [START], list[Offered]()
        for _ in range(rounds):
            self.close()

    def close(self) -> Closed:
        base = self.heads[-1]
        self.taken.append(contribution(BEN, base.round + 1, base))
        record = record_of(self.taken[-1], after=self.position, state=base.digest)
        closed, self.position = closed_by(self.position, ended(record))
        self.ledger.add(closed)
        self.heads.append(Head(record.round, closed.hash, bytes([record.round]) * 32))
        return closed

    def state(self, now: float, told: Told, other_state: bytes | None = None) -> list[Effect]:
        stood_on = SPEC, SWARM, ANN.peer_id, self.head, self.ledger, self.pool
        view = View(*stood_on, self.position, admission(), frozenset(), Compacting(0))
        return self.catching_up.state(now, view, self.ledger.closed(self.head.round + 1), other_state, told)


def at(head: Head, *peers: PeerId) -> Told:
    return {head: set(peers or PEERS)}


# The log.


def log(asked: CatchingUp, now: float, told: Told, known: int = 3, trusted: bytes | None = None) -> list[Effect]:
    return asked.log(now, Position(known, bytes(32), THREE.electorate), trusted, told, set())


def test_those_who_say_that_they_are_further_are_asked_for_the_log() -> None:
    asked, far, near = CatchingUp(PATIENCE_S, can_apply=True), Head(5, bytes(32), DIGEST), Head(3, bytes(32), DIGEST)
    assert log(asked, 0.0, {near: {BEN.peer_id}}) == []
    assert log(asked, 0.0, {near: {BEN.peer_id}, far: {CAT.peer_id}}) == [AskLog(4, (CAT.peer_id,))]


def test_whose_ballots_are_of_later_rounds_is_asked_once() -> None:
    asked, asks = CatchingUp(PATIENCE_S, can_apply=True), {BEN.peer_id}
    position = Position(3, bytes(32), THREE.electorate)
    assert asked.log(0.0, position, None, {}, asks) == [AskLog(4, (BEN.peer_id,))]
    assert asks == set()


def test_one_request_for_the_log_is_under_way_and_the_next_comes_at_once_if_it_told_something() -> None:
    asked, told = CatchingUp(PATIENCE_S, can_apply=True), at(Head(9, bytes(32), DIGEST))
    assert len(log(asked, 0.0, told)) == 1
    assert log(asked, 100.0, told) == []
    asked.log_asked(100.0, is_news=True)
    assert len(log(asked, 100.0, told)) == 1


def test_a_request_for_the_log_that_told_nothing_is_followed_by_a_pause() -> None:
    asked, told = CatchingUp(PATIENCE_S, can_apply=True), at(Head(9, bytes(32), DIGEST))
    log(asked, 0.0, told)
    asked.log_asked(5.0, is_news=False)
    assert log(asked, 5.0 + PAUSE_S / 2, told) == []
    assert asked.deadline(5.0) == 5.0 + PAUSE_S
    assert len(log(asked, 5.0 + PAUSE_S, told)) == 1


def test_who_is_far_behind_asks_for_a_proof_instead_of_every_record() -> None:
    for ahead, kind in ((LOG_TOLD_MAX, AskLog), (LOG_TOLD_MAX + 1, AskProof)):
        asked = CatchingUp(PATIENCE_S, can_apply=True)
        assert [type(each) for each in log(asked, 0.0, at(Head(3 + ahead, bytes(32), DIGEST)))] == [kind]


def test_a_record_that_an_invite_names_is_to_be_proved_first_by_whoever_there_is() -> None:
    asked, trusted = CatchingUp(PATIENCE_S, can_apply=True), b"\x07" * 32
    (ask,) = of_kind(log(asked, 0.0, at(START), known=0, trusted=trusted), AskProof)
    assert (ask.trusted, ask.holders) == (trusted, tuple(PEERS))


# The state.


def test_what_the_next_record_took_is_collected_once_and_the_rest_not_at_all() -> None:
    ann = Behind(2)
    (collect,) = of_kind(ann.state(0.0, {}), Collect)
    closed = ann.ledger.closed(1)
    assert closed is not None
    assert collect == Collect(closed.hash, (ann.taken[0].hash,), closed.proposer)
    assert ann.state(1.0, {}) == []


def test_what_is_on_its_way_is_waited_for_and_then_a_checkpoint_will_do() -> None:
    ann = Behind(1)
    ann.pool.hear(ann.taken[0])
    assert ann.state(10.0, at(ann.heads[1])) == []
    assert ann.catching_up.deadline(10.0) == 10.0 + PATIENCE_S
    assert ann.state(10.0 + PATIENCE_S, at(ann.heads[1])) == [Resync(ann.heads[1], tuple(PEERS))]


def test_patience_begins_anew_with_each_round_that_is_applied() -> None:
    ann = Behind(2)
    ann.state(0.0, {})
    ann.head = ann.heads[1]
    ann.catching_up.arrived()
    assert of_kind(ann.state(PATIENCE_S, at(ann.heads[2])), Resync) == []


def test_what_nobody_has_any_more_is_gone_around_by_a_checkpoint() -> None:
    ann = Behind(1)
    ann.state(0.0, {})
    ann.catching_up.close_way_by_records()
    assert ann.state(0.1, at(ann.heads[1])) == [Resync(ann.heads[1], tuple(PEERS))]


def test_who_is_too_far_behind_goes_by_checkpoint_at_once_to_the_furthest() -> None:
    ann = Behind(ROUNDS_SERVED)
    assert of_kind(ann.state(0.0, {}), Collect) != []
    ann = Behind(ROUNDS_SERVED + 1)
    told = {ann.heads[-1]: {CAT.peer_id}, ann.heads[-2]: {BEN.peer_id}}
    assert ann.state(0.0, told) == [Resync(ann.heads[-1], (CAT.peer_id,))]


def test_who_applies_nothing_always_goes_by_checkpoint() -> None:
    ann = Behind(1, can_apply=False)
    assert ann.state(0.0, at(ann.heads[1])) == [Resync(ann.heads[1], tuple(PEERS))]


def test_a_head_that_is_not_in_the_log_leads_nowhere() -> None:
    ann = Behind(ROUNDS_SERVED + 1)
    newest = ann.heads[-1]
    assert ann.state(0.0, at(Head(newest.round, bytes(32), newest.digest))) == []
    assert ann.state(0.0, at(Head(newest.round + 7, newest.record, newest.digest))) == []


def test_a_head_with_a_state_that_is_not_the_certified_one_leads_nowhere() -> None:
    ann = Behind(ROUNDS_SERVED + 1)
    before = ann.heads[-2]
    assert ann.state(0.0, at(Head(before.round, before.record, bytes(32)))) == []
    assert ann.state(0.0, at(before)) != []


def test_of_the_newest_states_which_nobody_has_certified_the_one_most_members_tell_is_taken() -> None:
    ann = Behind(ROUNDS_SERVED + 1)
    newest = ann.heads[-1]
    other = Head(newest.round, newest.record, b"\xff" * 32)
    third = PeerId("c" * 52)
    told = {other: {BEN.peer_id}, newest: {CAT.peer_id, third}}
    assert ann.state(0.0, told) == [Resync(newest, tuple(sorted((CAT.peer_id, third))))]


def test_an_own_state_that_differs_from_the_certified_is_said_and_replaced() -> None:
    ann = Behind(2)
    ann.head = Head(1, ann.heads[1].record, b"\xee" * 32)
    effects = ann.state(0.0, at(ann.heads[2]))
    assert [str(event) for event in events(effects) if "differs from the others'" in str(event)] != []
    assert of_kind(effects, Resync) == [Resync(ann.heads[2], tuple(PEERS))]
    assert of_kind(effects, Collect) == []


def test_the_state_that_a_quorum_computed_is_taken_over_before_the_next_record() -> None:
    ann = Behind(1)
    ann.head = Head(1, ann.heads[1].record, b"\xee" * 32)
    assert of_kind(ann.state(0.0, at(ann.heads[1])), Resync) == []
    assert of_kind(ann.state(0.0, at(ann.heads[1]), ann.heads[1].digest), Resync) == [
        Resync(ann.heads[1], tuple(PEERS))
    ]


def test_one_checkpoint_is_fetched_at_a_time_and_after_a_failure_there_is_a_pause() -> None:
    ann = Behind(ROUNDS_SERVED + 1)
    told = at(ann.heads[-1])
    assert len(ann.state(0.0, told)) == 1
    assert ann.state(50.0, told) == []
    ann.catching_up.resynced(50.0, has_arrived=False)
    assert ann.state(50.0 + PAUSE_S / 2, told) == []
    assert ann.catching_up.deadline(50.0) == 50.0 + PAUSE_S
    assert len(ann.state(50.0 + PAUSE_S, told)) == 1


def test_after_a_checkpoint_that_led_nowhere_the_way_by_records_is_open_again() -> None:
    ann = Behind(1)
    ann.catching_up.close_way_by_records()
    assert of_kind(ann.state(0.0, at(ann.heads[1])), Resync) != []
    ann.catching_up.resynced(1.0, has_arrived=False)
    assert of_kind(ann.state(1.0 + PAUSE_S, at(ann.heads[1])), Collect) != []
