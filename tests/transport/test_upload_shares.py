"""Uploads within the owner's limit: the rate holds, who uploads has an equal share, and who pauses gives it back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.upload_shares import (
    ACTIVE_S,
    PIECE_BYTES_MAX,
    PIECE_BYTES_MIN,
    UNLIMITED_PIECE_BYTES,
    UploadShares,
)


class Uploader:
    """Sends pieces one after the other, between two moments."""

    def __init__(self, owner: str, size: int, begins_at: float = 0.0, ends_at: float = math.inf) -> None:
        self.owner, self.size, self.at, self.ends_at = owner, size, begins_at, ends_at
        self.sent: list[tuple[float, int]] = []

    def bytes_between(self, start: float, end: float) -> int:
        return sum(size for at, size in self.sent if start <= at < end)


def run(shares: UploadShares, uploaders: list[Uploader], until: float) -> None:
    """Each asks for its next piece when the one before has gone."""
    while True:
        due = min((each for each in uploaders if each.at < min(each.ends_at, until)), key=lambda e: e.at, default=None)
        if due is None:
            return
        now = due.at
        due.at = shares.due_at(due.owner, due.size, now)
        assert due.at >= now
        due.sent.append((due.at, due.size))
        if due.at == now:
            due.at = math.nextafter(now, math.inf)


sizes = st.integers(1, PIECE_BYTES_MAX)
uploaders = st.lists(
    st.tuples(st.sampled_from("abcde"), sizes, st.floats(0, 5), st.floats(0, 20)), min_size=1, max_size=8
)


@given(rate=st.floats(1e4, 1e8), specs=uploaders)
def test_the_rate_holds_for_any_sizes_owners_and_times(rate: float, specs: list[tuple[str, int, float, float]]) -> None:
    shares = UploadShares(rate)
    large = [(owner, max(size, int(rate / 200)), start, start + length) for owner, size, start, length in specs]
    each = [Uploader(*spec) for spec in large]
    run(shares, each, 10.0)
    sent = sorted(piece for uploader in each for piece in uploader.sent)
    at_once = len(each) * max(size for _, size in sent) if sent else 0  # promised before one more owner came
    for start in (0.0, 1.0, 2.5, 5.0):
        end = start + 4.0
        assert sum(size for at, size in sent if start <= at < end) <= rate * 4.0 * 1.001 + 2 * at_once


@pytest.mark.parametrize("counts", [(1, 1), (1, 4), (3, 1, 2), (1, 1, 1, 1, 1)], ids=str)
def test_owners_share_alike_however_many_connections_they_have(counts: tuple[int, ...]) -> None:
    shares = UploadShares(1e6)
    each = [
        Uploader(str(owner), 1_000 * (1 + (owner + place) % 7))
        for owner, count in enumerate(counts)
        for place in range(count)
    ]
    run(shares, each, 20.0)
    for owner in range(len(counts)):
        sent = sum(uploader.bytes_between(5, 20) for uploader in each if uploader.owner == str(owner))
        assert math.isclose(sent, 15e6 / len(counts), rel_tol=0.02)


def test_one_alone_has_all_of_it_and_a_pause_gives_the_share_back() -> None:
    shares = UploadShares(1e6)
    stays, pauses = Uploader("stays", 10_000), Uploader("pauses", 10_000, 5.0, 10.0)
    run(shares, [stays, pauses], 20.0)
    assert math.isclose(stays.bytes_between(0, 5), 5e6, rel_tol=0.02)
    assert math.isclose(stays.bytes_between(6, 10), 2e6, rel_tol=0.02)
    assert math.isclose(pauses.bytes_between(6, 10), 2e6, rel_tol=0.02)
    assert math.isclose(stays.bytes_between(10 + 2 * ACTIVE_S, 20), 9e6, rel_tol=0.02)


def test_who_was_idle_has_saved_nothing_up() -> None:
    shares = UploadShares(1e6)
    assert shares.due_at("a", 500_000, 0.0) == 0.0
    assert shares.due_at("a", 500_000, 100.0) == 100.0
    assert shares.due_at("a", 1, 100.0) == 100.5


def test_without_a_limit_nobody_waits() -> None:
    shares = UploadShares(0)
    assert [shares.due_at("a", 2**40, now) for now in (0.0, 1.0, 1.0)] == [0.0, 1.0, 1.0]
    assert shares.piece_bytes == UNLIMITED_PIECE_BYTES


@given(rate=st.floats(1, 1e12))
def test_pieces_are_small_parts_of_a_second(rate: float) -> None:
    piece = UploadShares(rate).piece_bytes
    assert PIECE_BYTES_MIN <= piece <= PIECE_BYTES_MAX
    assert piece == PIECE_BYTES_MIN or piece / rate <= 0.051
