"""Which checkpoint is fetched of those that members tell, and how slowly it may come."""

from collections.abc import Set

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.calls import TellHead
from shoal.training.checkpoints import BYTES_PER_S, BYTES_PER_S_MIN, Choice, choose, pace
from shoal.training.records import Head
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId

A, B, C, D = (PeerId(name) for name in "abcd")


def told(round: int, name: int = 0) -> TellHead:
    return TellHead(Head(round, bytes(32), bytes(32)), BlobRef(bytes([name]) * 32, 100))


def all_alike(peers: Set[PeerId]) -> int:
    return len(peers)


def test_the_checkpoint_that_most_votes_tell_is_chosen_before_one_that_is_further() -> None:
    answers = {A: told(5), B: told(5), C: told(6)}
    assert choose(answers, all_alike) == Choice(told(5), (A, B))
    assert choose(answers, lambda peers: 3 * (C in peers)) == Choice(told(6), (C,))


def test_another_blob_for_the_same_head_is_another_word() -> None:
    assert choose({A: told(5, name=1), B: told(5), C: told(5)}, all_alike) == Choice(told(5), (B, C))


def test_without_votes_most_members_are_believed_then_who_is_furthest() -> None:
    assert choose({A: told(5), B: told(5), C: told(6)}, lambda peers: 0) == Choice(told(5), (A, B))
    assert choose({A: told(5), C: told(6)}, lambda peers: 0) == Choice(told(6), (C,))
    assert choose({}, all_alike) is None


@given(st.lists(st.tuples(st.sampled_from([A, B, C, D]), st.integers(1, 3), st.integers(0, 2)), min_size=1))
def test_in_whatever_order_they_answer_the_same_is_chosen(rows: list[tuple[PeerId, int, int]]) -> None:
    answers = {peer: told(round, name) for peer, round, name in rows}
    backwards = dict(reversed(answers.items()))
    choice = choose(answers, all_alike)
    assert choice == choose(backwards, all_alike)
    assert choice is not None
    assert all(answers[peer] == choice.told for peer in choice.tellers)


@given(st.integers(0, 10_000))
def test_what_comes_too_slowly_may_come_half_as_fast_the_next_time_down_to_a_bound(slow_count: int) -> None:
    assert pace(0) == BYTES_PER_S
    assert pace(slow_count + 1) in (pace(slow_count) / 2, BYTES_PER_S_MIN)
    assert pace(slow_count) >= BYTES_PER_S_MIN
