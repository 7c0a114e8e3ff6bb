"""Whose turn a chunk is."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.blob_turns import RARE_LEVELS, by_rarity, first_bit, place, turns
from shoal.transport.port import PeerId

COUNTS = st.integers(1, 40)


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A number of chunks, and what each of some fetchers has of them."""
    count = draw(COUNTS)
    return count, draw(st.lists(st.integers(0, 2**count - 1), min_size=1, max_size=7))


@given(COUNTS, st.integers(1, 7))
def test_at_first_each_chunk_is_one_fetchers_turn(count: int, fetchers: int) -> None:
    all_turns = [turns([0] * fetchers, own, count) for own in range(fetchers)]
    for index in range(count):
        assert [own for own, turn in enumerate(all_turns) if turn >> index & 1] == [index % fetchers]


@given(swarms())
def test_a_turn_comes_once_all_before_have_the_chunk_and_reaches_whoever_lacks_it(swarm: tuple[int, list[int]]) -> None:
    count, haves = swarm
    all_turns = [turns(haves, own, count) for own in range(len(haves))]
    for index in range(count):
        order = [(index + step) % len(haves) for step in range(len(haves))]
        lacking = [number for number in order if not haves[number] >> index & 1]
        holders = [number for number in order if all_turns[number] >> index & 1]
        expected = order[: order.index(lacking[0]) + 1] if lacking else order
        assert holders == expected  # and of these one lacks it at most
        assert all(turn < 1 << count for turn in all_turns)


@given(swarms())
def test_rarity_counts_who_has_a_chunk(swarm: tuple[int, list[int]]) -> None:
    count, haves = swarm
    masks = by_rarity(haves)
    assert len(masks) == RARE_LEVELS
    for index in range(count):
        owners = sum(have >> index & 1 for have in haves)
        assert [bool(mask >> index & 1) for mask in masks] == [owners <= level for level in range(RARE_LEVELS)]


@given(st.integers(1, 2**40 - 1), st.integers(0, 50))
def test_the_first_from_a_place_on_or_else_the_lowest(mask: int, start: int) -> None:
    bits = [index for index in range(40) if mask >> index & 1]
    assert first_bit(mask, start) == next((bit for bit in bits if bit >= start), bits[0])


def test_places_differ_by_blob() -> None:
    peers = [PeerId(name) for name in "abcdefgh"]
    orders = {tuple(sorted(peers, key=lambda peer: place(peer, bytes([blob]) * 32))) for blob in range(8)}
    assert len(orders) > 4
