"""Records: what can follow what, and which changes are proved."""

from typing import Any

import pytest
from msgspec import structs

from shoal.crdt.compact import WriterMark
from shoal.training.agreed import (
    AgreedRecord,
    Position,
    Share,
    StoreMark,
    follow,
    leave_statement,
    next_record,
    opine_statement,
    proof_count,
    record_value,
    remove_statement,
    unproved,
    vouch_statement,
)
from shoal.training.conduct import Conduct
from shoal.training.evidence import COSINE, Evidence
from shoal.training.members import Change, Expel, Join, Leave, Opine, Remove, Suspend, Vouch, electorate_of
from shoal.training.spec import BAN_ROUNDS, Quorum
from shoal.training.verdicts import Case, Opinion
from shoal.training.votes import Polka, Signed, Step, Vote, cast, propose, shortened, value_of
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
ANN, BEN, CLEO, DAN = KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {key.peer_id: 1 for key in (ANN, BEN, CLEO)}))
POLKA = Polka(0, b"one", ())
SHARES = [Share(key.peer_id, 1, 0, bytes([number]) * 32, 7) for number, key in enumerate((ANN, BEN))]


def record(position: Position = ORIGIN, *changes: Change) -> AgreedRecord:
    made = next_record(position, b"", SHARES, changes)
    assert isinstance(made, AgreedRecord), made
    return made


def test_records_follow_one_another() -> None:
    value = record_value(record(ORIGIN, Suspend(CLEO.peer_id)))
    followed = follow(ORIGIN, value)
    assert not isinstance(followed, Malformed)
    assert followed[1].round == 1
    assert followed[1].record == value.hash
    assert followed[1].electorate.by_member[CLEO.peer_id].is_suspended
    assert isinstance(follow(followed[1], value), Malformed)
    assert not isinstance(follow(followed[1], record_value(record(followed[1]))), Malformed)


def test_the_order_of_shares_does_not_matter_to_who_proposes() -> None:
    other = next_record(ORIGIN, b"", reversed(SHARES))
    assert other == record()


def data_of(*, round: int = 1, previous: bytes = SWARM, taken: tuple[Share, ...] = (), **fields: Any) -> bytes:
    made: dict[str, Any] = {"changes": (), "electorate": ORIGIN.electorate.digest(), "store": None} | fields
    return record_value(AgreedRecord(previous, round, b"", taken, **made)).data


def mark(*writers: Identity) -> StoreMark:
    digest = bytes([len(writers)]) + writers[0].public_key[1:]
    return StoreMark(tuple(WriterMark(writer.public_key, 1, bytes(32)) for writer in writers), digest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        data_of() + b"\xc0",
        data_of(round=2),
        data_of(previous=bytes(32)),
        data_of(electorate=bytes(32)),
        data_of(taken=tuple(sorted(SHARES, key=lambda share: share.member, reverse=True))),
        data_of(taken=(SHARES[0], structs.replace(SHARES[0], contribution=bytes(32)))),  # two in one place
        data_of(changes=(Suspend(DAN.peer_id),)),
        data_of(changes=(Suspend(ANN.peer_id),)),  # and the electorate of before
        data_of(store=mark(CLEO, BEN)),
        data_of(store=mark(BEN, BEN)),
        data_of(store=StoreMark((), bytes(32))),
        data_of(store=bytes(32)),  # nothing was agreed on before
        data_of(store=b"short"),
    ],
)
def test_what_does_not_follow_is_refused(data: bytes) -> None:
    assert isinstance(follow(ORIGIN, value_of(data)), Malformed)


def test_a_record_says_how_members_have_behaved_as_it_follows_from_what_was_before() -> None:
    _, position = followed(ORIGIN, record())
    assert position.behaviour.members == tuple(sorted(share.member for share in SHARES))
    for evidence in ((Evidence(5), Evidence(6)), ()):
        made = next_record(position, b"", SHARES[:1], evidence=evidence)
        assert isinstance(made, AgreedRecord)
        assert followed(position, made)[1].behaviour.conduct == made.conduct
    for count in (1, 3):
        assert isinstance(next_record(position, b"", (), evidence=(Evidence(),) * count), Malformed)
        other = structs.replace(record(position), evidence=(Evidence(),) * count)
        assert isinstance(follow(position, record_value(other)), Malformed)
    for nearest in (0, COSINE):  # another's contribution that is none
        beyond = Evidence(COSINE, nearest=nearest, beside=2)
        other = structs.replace(record(position), evidence=(beyond, beyond))
        assert isinstance(follow(position, record_value(other)), Malformed)
    case = Case(ANN.peer_id, 1, 0, 1, (Opinion(BEN.peer_id, 0),))
    made_up = structs.replace(record(position), conduct=Conduct(cases=(case,)))
    assert isinstance(follow(position, record_value(made_up)), Malformed)


def test_an_opinion_opens_a_case_once() -> None:
    _, position = followed(ORIGIN, record())
    opinion = Opine(ANN.peer_id, BEN.peer_id, 1, 0, 0, bytes(64))
    _, after = followed(position, record(position, opinion))
    (case,) = after.behaviour.conduct.cases
    assert case == Case(ANN.peer_id, 1, 0, 2, (Opinion(BEN.peer_id, 0),))
    assert isinstance(next_record(after, b"", (), (opinion,)), Malformed)
    assert isinstance(next_record(position, b"", (), (opinion, opinion)), Malformed)
    for judge in (ANN, DAN):  # nobody judges itself, nor without a vote
        other = structs.replace(opinion, judge=judge.peer_id)
        assert isinstance(next_record(position, b"", (), (other,)), Malformed)


def test_who_leaves_is_judged_all_the_same() -> None:
    _, position = followed(ORIGIN, record())
    word = ANN.sign(leave_statement(SWARM, ANN.peer_id, 0))
    _, gone = followed(position, record(position, Leave(ANN.peer_id, word)))
    said = [Opine(ANN.peer_id, judge.peer_id, 1, 0, 0, bytes(64)) for judge in (BEN, CLEO)]
    made = next_record(gone, b"", (), tuple(said))
    assert isinstance(made, AgreedRecord), made
    assert followed(gone, made)[1].behaviour.bans == {ANN.peer_id: 3 + BAN_ROUNDS}


def test_an_opinion_is_its_judges_word() -> None:
    opinion = Opine(ANN.peer_id, BEN.peer_id, 1, 0, 0, bytes(64))
    signed = structs.replace(opinion, word=BEN.sign(opine_statement(SWARM, opinion)))
    assert unproved((signed,), SWARM, ORIGIN.electorate, lambda member, admission: None) is None
    others: list[dict[str, Any]] = [{"came_out": 1}, {"member": CLEO.peer_id}, {"round": 2}, {"judge": CLEO.peer_id}]
    for lie in others:
        other = structs.replace(signed, **lie)
        assert unproved((other,), SWARM, ORIGIN.electorate, lambda member, admission: None) is not None


def followed(position: Position, record: AgreedRecord) -> tuple[AgreedRecord, Position]:
    found = follow(position, record_value(record))
    assert not isinstance(found, Malformed), found
    return found


def test_what_follows_is_sound() -> None:
    assert not isinstance(follow(ORIGIN, value_of(data_of())), Malformed)
    assert not isinstance(follow(ORIGIN, value_of(data_of(store=mark(BEN, CLEO)))), Malformed)


def test_records_repeat_which_snapshot_of_the_store_is_agreed_on_until_there_is_another() -> None:
    position, snapshots = ORIGIN, list[bytes | None]()
    for store in (None, mark(BEN), None, mark(CLEO), None):
        made = next_record(position, b"", (), (), store)
        assert isinstance(made, AgreedRecord)
        followed = follow(position, record_value(made))
        assert not isinstance(followed, Malformed)
        position = followed[1]
        snapshots.append(position.snapshot)
    assert snapshots == [None, mark(BEN).digest, mark(BEN).digest, mark(CLEO).digest, mark(CLEO).digest]


def test_what_the_store_is_compacted_to_is_in_a_records_hash() -> None:
    assert len({value_of(data_of(store=store)).hash for store in (None, mark(BEN), mark(CLEO))}) == 3


def admits(member: PeerId, admission: bytes) -> int | None:
    return 1 if admission == b"invited" else None


def is_proved(change: Change) -> bool:
    return unproved((change,), SWARM, ORIGIN.electorate, admits) is None


def test_who_leaves_has_said_so_itself() -> None:
    assert is_proved(Leave(ANN.peer_id, ANN.sign(leave_statement(SWARM, ANN.peer_id, 0))))
    assert not is_proved(Leave(ANN.peer_id, BEN.sign(leave_statement(SWARM, ANN.peer_id, 0))))
    assert not is_proved(Leave(ANN.peer_id, ANN.sign(leave_statement(SWARM, ANN.peer_id, 1))))
    assert not is_proved(Leave(ANN.peer_id, ANN.sign(leave_statement(bytes(32), ANN.peer_id, 0))))


def test_who_comes_is_let_in_with_the_votes_that_are_due() -> None:
    assert is_proved(Join(DAN.peer_id, 1, b"invited"))
    assert not is_proved(Join(DAN.peer_id, 2, b"invited"))
    assert not is_proved(Join(DAN.peer_id, 1, b"forged"))


def test_who_leaves_is_not_let_in_by_the_same_record() -> None:
    assert not is_proved(Join(BEN.peer_id, 1, b"invited"))


def test_a_voucher_gives_its_own_votes_away() -> None:
    statement = vouch_statement(SWARM, ANN.peer_id, BEN.peer_id, 1, 0)
    assert is_proved(Vouch(BEN.peer_id, ANN.peer_id, 1, ANN.sign(statement)))
    assert not is_proved(Vouch(BEN.peer_id, ANN.peer_id, 1, BEN.sign(statement)))
    assert not is_proved(Vouch(CLEO.peer_id, ANN.peer_id, 1, ANN.sign(statement)))


def test_a_quorum_of_the_others_has_a_member_go() -> None:
    statement = remove_statement(SWARM, CLEO.peer_id, 0)
    words = [Signed(key.peer_id, key.sign(statement)) for key in (ANN, BEN, CLEO)]
    assert is_proved(Remove(CLEO.peer_id, tuple(words[:2])))
    assert not is_proved(Remove(CLEO.peer_id, tuple(words[:1])))
    assert not is_proved(Remove(CLEO.peer_id, (words[0], words[0], words[2])))
    assert not is_proved(Remove(CLEO.peer_id, (words[0], Signed(BEN.peer_id, words[0].signature))))


def test_what_a_proof_costs_to_check_grows_with_its_signatures() -> None:
    words = (Signed(BEN.peer_id, bytes(64)),) * 270  # as many as fit a message
    assert proof_count(Remove(CLEO.peer_id, words)) == 270
    assert proof_count(Join(DAN.peer_id, 1, b"")) == 4
    assert proof_count(Leave(ANN.peer_id, bytes(64))) == 1


def vote(key: Identity = CLEO, attempt: int = 0, step: Step = Step.PREVOTE, choice: bytes = b"") -> Vote:
    return cast(key, SWARM, 3, attempt, step, choice)


def test_two_votes_in_one_step_are_proof() -> None:
    one, other = shortened(vote()), shortened(vote(choice=bytes(32)))
    assert is_proved(Expel(CLEO.peer_id, one, other))
    for first, second in (
        (one, one),
        (one, shortened(vote(attempt=1, choice=bytes(32)))),
        (one, shortened(vote(step=Step.PRECOMMIT, choice=bytes(32)))),
        (one, shortened(vote(BEN, choice=bytes(32)))),
        (shortened(vote(BEN)), shortened(vote(BEN, choice=bytes(32)))),
    ):
        assert not is_proved(Expel(CLEO.peer_id, first, second))


def test_one_vote_shown_twice_with_what_it_does_not_sign_is_no_proof() -> None:
    once = shortened(vote(choice=bytes(32)))
    again = structs.replace(once, polka_attempt=0)
    assert not is_proved(Expel(CLEO.peer_id, once, again))


def test_two_proposals_in_one_attempt_are_proof() -> None:
    values = value_of(b"one"), value_of(b"another")
    first, second = (shortened(propose(CLEO, SWARM, 3, 0, value, None)) for value in values)
    assert is_proved(Expel(CLEO.peer_id, first, second))
    assert not is_proved(Expel(CLEO.peer_id, first, first))
    assert not is_proved(Expel(CLEO.peer_id, first, shortened(propose(CLEO, SWARM, 3, 1, values[1], None))))
    freed = (
        shortened(propose(CLEO, SWARM, 3, 1, values[0], None)),
        shortened(propose(CLEO, SWARM, 3, 1, values[0], POLKA)),
    )
    assert is_proved(Expel(CLEO.peer_id, *freed))
