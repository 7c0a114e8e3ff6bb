"""What a node says in the DHT about itself, and when it searches for members of a swarm."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shoal.dht.keys import blob_providers_key, swarm_providers_key
from shoal.node.announcing import LASTING_S, SEEK_S_MAX, SEEK_S_MIN, Announcing, Change, Seeking

SWARM, STATE = bytes(32), bytes([1]) * 32
NOTHING = Change((), ())


def test_a_swarm_is_announced_once_and_withdrawn_when_it_is_left() -> None:
    announcing = Announcing()
    assert announcing.look([SWARM], [], 0.0) == Change((swarm_providers_key(SWARM),), ())
    assert announcing.look([SWARM], [], 1.0) == NOTHING
    assert announcing.look([], [], 2.0) == Change((), (swarm_providers_key(SWARM),))


def test_a_state_is_announced_once_it_has_lasted() -> None:
    announcing = Announcing()
    assert announcing.look([], [STATE], 5.0) == NOTHING
    assert announcing.look([], [STATE], 5.0 + LASTING_S - 1) == NOTHING
    assert announcing.look([], [STATE], 5.0 + LASTING_S) == Change((blob_providers_key(STATE),), ())
    assert announcing.look([], [], 6.0 + LASTING_S) == Change((), (blob_providers_key(STATE),))


def test_a_state_that_comes_and_goes_is_not_announced() -> None:
    announcing = Announcing()
    for second in range(0, 200, 50):
        assert announcing.look([], [STATE], float(second)) == NOTHING
        assert announcing.look([], [], float(second + 25)) == NOTHING


def test_what_is_forgotten_is_announced_again() -> None:
    announcing = Announcing()
    announcing.look([SWARM], [STATE], 0.0)
    announcing.forget()
    assert announcing.look([SWARM], [STATE], LASTING_S).begun == tuple(
        sorted([swarm_providers_key(SWARM), blob_providers_key(STATE)])
    )


@given(st.lists(st.tuples(st.frozensets(st.integers(0, 5)), st.frozensets(st.integers(0, 5)), st.floats(0, 100))))
def test_changes_add_up_to_what_is_wanted(looks: list[tuple[frozenset[int], frozenset[int], float]]) -> None:
    announcing, announced, now = Announcing(), set[bytes](), 0.0
    for swarms, states, pause_s in looks:
        now += pause_s
        ids = [bytes([each]) * 32 for each in sorted(swarms)]
        change = announcing.look(ids, [bytes([each]) * 32 for each in sorted(states)], now)
        assert not announced & set(change.begun)
        assert set(change.ended) <= announced
        announced = announced - set(change.ended) | set(change.begun)
        assert {swarm_providers_key(each) for each in ids} <= announced


def test_a_lonely_swarm_is_searched_for_ever_more_rarely_and_quickly_again_after_company() -> None:
    seeking, searched_at = Seeking(), list[float]()
    for second in range(3600):
        if seeking.due(["swarm"], float(second)):
            searched_at.append(float(second))
    pauses = [late - early for early, late in pairwise(searched_at)]
    assert searched_at[0] == SEEK_S_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == SEEK_S_MAX
    assert seeking.due([], 3600.0) == []
    assert seeking.due(["swarm"], 3601.0) == []
    assert seeking.due(["swarm"], 3601.0 + SEEK_S_MIN) == ["swarm"]
