"""What a next record may take and change: a proposer asks the same questions as those who vote on its proposal."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from msgspec import structs

from shoal.training.admission import join_change
from shoal.training.agreed import AgreedRecord, Position, next_record, opine_statement
from shoal.training.compacting import Compacting
from shoal.training.evidence import Evidence
from shoal.training.judging import (
    Unsettled,
    View,
    cannot_take,
    digest_of,
    is_of_something,
    judge,
    share_of,
    shares_of,
    takeable,
)
from shoal.training.ledger import Ledger, closed_by
from shoal.training.members import Change, Join, Leave, Opine, Resume, Suspend
from shoal.training.pool import Pool
from shoal.training.records import Head, Offered
from shoal.training.spec import Spec
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId
from tests.training.round_member import (
    ANN,
    BEN,
    CAT,
    DAN,
    DIGEST,
    PEOPLE,
    SPEC,
    START,
    SWARM,
    THREE,
    admission,
    blob,
    contribution,
    done,
    ended,
    make_spec,
    record_of,
)

A, B, C = (contribution(who) for who in (ANN, BEN, CAT))


@dataclass
class Desk:
    """Ann's, with what is on it."""

    spec: Spec = SPEC
    head: Head = START
    position: Position = THREE
    ledger: Ledger = field(default_factory=lambda: Ledger(THREE))
    pool: Pool = field(default_factory=lambda: Pool(100, can_check=True))
    silent: Set[PeerId] = frozenset()
    evidence: tuple[Evidence, ...] | None = ()

    @property
    def view(self) -> View:
        stood_on = self.spec, SWARM, ANN.peer_id, self.head, self.ledger, self.pool
        view = View(*stood_on, self.position, admission(self.spec), self.silent, Compacting(0))
        return replace(view, evidence=self.evidence)

    def holding(self, *offers: Offered) -> "Desk":
        for offered in offers:
            done(self.pool.hear(offered))
            self.pool.hold(offered)
        return self

    def after(self, *takes: Iterable[Offered]) -> "Desk":
        """So many records later, each of which took these."""
        for offers in takes:
            decided = ended(record_of(*offers, after=self.position, state=self.head.digest))
            closed, self.position = closed_by(self.position, decided)
            self.ledger.add(closed)
            digest = bytes([closed.record.round]) * 32 if closed.record.taken else self.head.digest
            self.head = Head(closed.record.round, closed.hash, digest)
        return self


def of_this(desk: Desk, *offers: Offered, changes: tuple[Change, ...] = ()) -> AgreedRecord:
    return record_of(*offers, after=desk.position, changes=changes, state=desk.head.digest)


# What may be taken.


def test_what_starts_from_the_newest_state_may_be_taken() -> None:
    assert cannot_take(Desk().view, A) is None


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (contribution(BEN, samples=101), "samples"),
        (contribution(BEN, payload=BlobRef(DIGEST, 2**40)), "payload"),
        (contribution(BEN, base=structs.replace(START, record=bytes(32))), "not in the log"),
        (contribution(BEN, 3, Head(2, bytes(32), DIGEST)), "not in the log"),
        (contribution(BEN, base=structs.replace(START, digest=b"\x01" * 32)), "another state"),
        (contribution(BEN, 6), "it is for round 6"),
    ],
)
def test_what_may_not_be_taken_says_why(offered: Offered, reason: str) -> None:
    assert reason in str(cannot_take(Desk().view, offered))


def test_stale_work_may_be_taken_for_so_many_rounds_that_took_something() -> None:
    desk = Desk(make_spec(stale_rounds_max=2)).after([B])
    for _ in range(5):
        desk.after([])
    assert cannot_take(desk.view, A) is None
    desk.after([contribution(BEN, 7, desk.head)])
    assert cannot_take(desk.view, A) is None
    desk.after([contribution(BEN, 8, desk.head)])
    assert "more than 2 rounds old" in str(cannot_take(desk.view, A))


def test_stale_work_starts_from_the_state_that_is_certified_by_now() -> None:
    desk = Desk().after([B])
    assert digest_of(desk.view, 0) == DIGEST
    assert digest_of(desk.view, 1) == b"\x01" * 32  # as computed here
    elsewhere = contribution(ANN, base=structs.replace(START, digest=b"\x09" * 32))
    assert "another state" in str(cannot_take(desk.view, elsewhere))


def test_nothing_is_taken_twice() -> None:
    desk = Desk().after([A, B])
    assert "taken before" in str(cannot_take(desk.view, A))
    assert cannot_take(desk.view, C) is None
    assert cannot_take(desk.view, contribution(ANN, 2)) is None  # more of the same walk


def test_takeable_is_what_is_held_of_members_sorted() -> None:
    refused, early = contribution(CAT), contribution(BEN, 2, Head(1, bytes(32), DIGEST))
    desk = Desk().holding(B, early, contribution(DAN), A)
    done(desk.pool.hear(refused))
    members = desk.position.electorate.by_member.keys()
    assert takeable(desk.view, members) == [A, B]
    assert takeable(desk.view, members | {DAN.peer_id})[-1].member == DAN.peer_id


def test_a_record_names_all_of_as_many_members_as_it_may_take() -> None:
    offers = [contribution(who, round) for who in PEOPLE[:3] for round in (1, 2)]
    two = shares_of(offers, Desk(make_spec(members_max=2)).view)
    assert [share.contribution for share in two] == [offered.hash for offered in offers[:4]]
    assert len(shares_of(offers, Desk().view)) == 6
    assert shares_of(offers[:2], Desk(make_spec(members_min=2, members_start=2)).view) == ()


# How a record is judged.


def test_a_record_of_what_is_held_is_voted_for() -> None:
    desk = Desk().holding(A, B)
    assert judge(desk.view, of_this(desk, A, B), False) is True
    assert judge(desk.view, of_this(desk, A), False) is True  # a proposer may leave some out


def test_what_is_not_known_is_missing_and_what_is_on_its_way_is_waited_for() -> None:
    desk, coming = Desk().holding(A), contribution(CAT, payload=blob(CAT))
    done(desk.pool.hear(coming))
    assert judge(desk.view, of_this(desk, A, B, coming), False) == Unsettled((B.hash,))
    assert judge(desk.view, of_this(desk, A, coming), False) == Unsettled(())


def test_what_was_refused_here_is_voted_against_even_when_others_back_it() -> None:
    desk = Desk().holding(A)
    done(desk.pool.hear(B))
    desk.pool.refuse(B)
    assert judge(desk.view, of_this(desk, A, B), False) is False
    assert judge(desk.view, of_this(desk, A, B), True) is False


def test_a_record_that_says_other_things_of_a_contribution_than_it_does_itself_is_voted_against() -> None:
    desk = Desk().holding(A)
    share = share_of(A)
    lies: list[dict[str, Any]] = [{"samples": 9}, {"round": 2}, {"member": BEN.peer_id}]
    for other in (structs.replace(share, **lie) for lie in lies):
        record = next_record(THREE, DIGEST, [other])
        assert isinstance(record, AgreedRecord)
        assert judge(desk.view, record, False) is False


def test_what_no_record_may_take_is_voted_against() -> None:
    desk = Desk().holding(A).after([A])
    record = next_record(desk.position, desk.head.digest, [share_of(A)])
    assert isinstance(record, AgreedRecord)
    assert judge(desk.view, record, False) is False


@pytest.mark.parametrize("is_backed", [False, True])
def test_a_record_shows_of_the_last_ones_contributors_what_the_state_shows(is_backed: bool) -> None:
    desk = Desk(evidence=(Evidence(7), Evidence(8))).holding(A, B).after([A, B])
    next_one = contribution(ANN, round=2, base=desk.head)
    desk.holding(next_one)

    def verdict(*evidence: Evidence) -> object:
        record = next_record(desk.position, desk.head.digest, [share_of(next_one)], evidence=evidence)
        assert isinstance(record, AgreedRecord), record
        return judge(desk.view, record, is_backed)

    assert verdict(Evidence(7), Evidence(8)) is True
    assert verdict() is False
    assert verdict(Evidence(7), Evidence(9)) is False
    assert verdict(Evidence(8), Evidence(7)) is False
    desk.evidence = None  # a member that keeps states and cannot read them
    assert verdict(Evidence(7), Evidence(9)) is verdict() is True


def test_nobody_shows_anything_of_a_record_that_took_nothing() -> None:
    desk = Desk(evidence=(Evidence(7),)).after([])
    assert desk.view.testimony == ()


def test_work_of_who_is_no_member_then_is_voted_against() -> None:
    stranger = contribution(DAN)
    desk = Desk().holding(A, stranger)
    join = join_change(SPEC, SWARM, DAN, None, 0)
    assert isinstance(join, Join)
    assert judge(desk.view, of_this(desk, A, stranger), False) is False
    assert judge(Desk().view, of_this(desk, A, stranger), False) is False  # nor is anything fetched for it
    assert judge(desk.view, of_this(desk, A, stranger, changes=(join,)), False) is True


def test_a_record_takes_something_or_changes_something() -> None:
    desk = Desk(silent={CAT.peer_id})
    assert judge(desk.view, of_this(desk), False) is False
    assert judge(desk.view, of_this(desk, changes=(Suspend(CAT.peer_id),)), False) is True


def test_a_record_takes_of_no_fewer_members_than_the_spec_says_and_of_no_more() -> None:
    desk = Desk(make_spec(members_start=2, members_min=2, members_max=2)).holding(A, B, C)
    for offers, verdict in (((A,), False), ((A, B), True), ((A, B, C), False)):
        assert judge(desk.view, of_this(desk, *offers), False) is verdict
    walk = contribution(ANN, 2)
    assert judge(desk.holding(walk).view, of_this(desk, A, walk), False) is False  # two of one member


def test_a_change_without_proof_is_voted_against_even_when_others_back_it() -> None:
    desk = Desk().holding(A)
    for change in (Leave(BEN.peer_id, bytes(64)), Join(DAN.peer_id, 1, b"please")):
        assert judge(desk.view, of_this(desk, A, changes=(change,)), False) is False
        assert judge(desk.view, of_this(desk, A, changes=(change,)), True) is False


def test_what_nobody_contributed_is_not_judged() -> None:
    desk = Desk().holding(A).after([A, B])
    places = ((BEN, 1, 0, True), (CAT, 1, 0, False), (BEN, 2, 1, False), (BEN, 2, 0, False))
    for who, round, base_round, verdict in places:
        word = Opine(who.peer_id, ANN.peer_id, round, base_round, 0, bytes(64))
        word = structs.replace(word, word=ANN.sign(opine_statement(SWARM, word)))
        assert is_of_something(desk.view, word) is verdict
        assert judge(desk.view, of_this(desk, changes=(word,)), False) is verdict
    newcomer = replace(desk, ledger=Ledger(desk.position))  # has seen none of it: leaves it to the others
    word = Opine(BEN.peer_id, ANN.peer_id, 1, 0, 0, bytes(64))
    word = structs.replace(word, word=ANN.sign(opine_statement(SWARM, word)))
    assert judge(newcomer.view, of_this(newcomer, changes=(word,)), False) is True


def test_no_more_are_let_in_than_the_spec_allows() -> None:
    join = join_change(SPEC, SWARM, DAN, None, 0)
    assert isinstance(join, Join)
    for members_max, verdict in ((3, False), (4, True)):
        desk = Desk(make_spec(members_max=members_max)).holding(A)
        assert judge(desk.view, of_this(desk, A, changes=(join,)), False) is verdict


def test_who_is_heard_here_is_not_to_be_suspended_unless_a_quorum_found_so() -> None:
    heard, silent = Desk().holding(A), Desk(silent={CAT.peer_id}).holding(A)
    record = of_this(heard, A, changes=(Suspend(CAT.peer_id),))
    assert judge(heard.view, record, False) is False
    assert judge(silent.view, record, False) is True
    assert judge(heard.view, record, True) is True


def test_nobody_finds_itself_silent() -> None:
    desk = Desk(silent={ANN.peer_id}).holding(B)
    assert judge(desk.view, of_this(desk, B, changes=(Suspend(ANN.peer_id),)), False) is False


def test_who_is_back_may_be_resumed_whoever_says_so() -> None:
    record = record_of(A, changes=(Suspend(CAT.peer_id),))
    closed, position = closed_by(THREE, ended(record))
    desk = Desk(head=Head(1, closed.hash, b"\x01" * 32), position=position, silent={CAT.peer_id})
    desk.ledger.add(closed)
    assert judge(desk.view, of_this(desk, changes=(Resume(CAT.peer_id),)), False) is True


# From another state.


def test_who_is_behind_cannot_say_yet() -> None:
    desk = Desk().holding(B)
    behind = desk.head
    desk.after([A])
    desk.head = behind
    record = record_of(contribution(BEN, 2, Head(1, desk.position.record, b"\x01" * 32)), after=desk.position)
    assert judge(desk.view, record, False) == Unsettled(())


def test_who_has_yet_to_get_the_state_that_the_swarm_starts_from_cannot_say_yet() -> None:
    desk = Desk(ledger=Ledger(THREE, b"\x07" * 32)).holding(A)
    started = contribution(BEN, base=structs.replace(START, digest=b"\x07" * 32))
    record = record_of(started, state=b"\x07" * 32)
    assert judge(desk.view, record, False) == Unsettled(())
    desk.head = Head(0, SWARM, b"\x07" * 32)
    assert judge(desk.holding(started).view, record, False) is True
    assert judge(desk.view, record_of(A), False) is False  # nobody starts from another one


def test_a_record_from_another_state_is_voted_against_until_a_quorum_computed_that_state() -> None:
    desk = Desk().holding(A)
    elsewhere = contribution(BEN, base=structs.replace(START, digest=b"\x09" * 32))
    record = record_of(elsewhere, state=b"\x09" * 32)
    assert judge(desk.view, record, False) is False
    assert judge(desk.view, record, True) == Unsettled((), b"\x09" * 32)
