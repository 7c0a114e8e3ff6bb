"""Evidence is that of the rows as they are: exact, equal for any sweep, within its bounds whatever was contributed."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.combinations import Combination
from shoal.training.evidence import (
    COSINE,
    CROWD,
    LENGTH,
    LENGTH_MAX,
    NOTHING,
    OVERLAP,
    ROUNDS_KEPT,
    ROWS_MAX,
    SKETCHED,
    SKETCHES_MAX,
    Evidence,
    Given,
    Sketched,
    Testimony,
    overlap,
    sketch,
)
from shoal.training.evidence import testify as found_of
from shoal.training.gram import Mix
from shoal.training.order_statistics import CoordinateMedian
from shoal.training.payload import VALUE_MAX
from shoal.training.rows import Row, Sweep, Weighted, one_by_one
from shoal.transport.wire import Malformed, decode, encode

from .rows_in_memory import in_pieces, normal, rows_of

SIZE = 40_001
NONE = Testimony()
STATE_HEADER_BYTES_MAX = 65_536  # checkpoint.HEADER_BYTES_MAX


def shown(rows: Sequence[Row], before: Testimony = NONE, size: int = SIZE, sweep: Sweep = one_by_one) -> Testimony:
    median = CoordinateMedian([Weighted(row, 1) for row in rows])
    return found_of([Given(row, is_voters=True) for row in rows], median, median, before, size, sweep)


def alike(seed: int, n: int) -> np.ndarray:
    """(n, SIZE): a common direction and as much noise."""
    return np.asarray(normal(seed, 1, SIZE) + normal(seed + 1, n, SIZE))


def test_similarity_is_the_cosine_to_the_median_and_length_is_over_the_median_length() -> None:
    values = alike(1, 5) * np.array([[1], [1], [2], [-1], [1]], np.float32)
    median = np.median(values, axis=0)
    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    for row, norm, found in zip(values, norms, shown(rows_of(values)).evidence, strict=True):
        cosine = row.astype(np.float64) @ median / norm / np.linalg.norm(median.astype(np.float64))
        assert found.similarity == pytest.approx(COSINE * cosine, abs=2)
        assert found.length == pytest.approx(LENGTH * norm / np.median(norms), abs=2)


def test_the_nearest_is_the_row_with_the_largest_cosine() -> None:
    values = alike(2, 4)
    values[3] = 4 * values[1]  # rounded alike
    evidence = shown(rows_of(values)).evidence
    assert (evidence[1].nearest, evidence[1].beside) == (COSINE, 3)
    assert (evidence[3].nearest, evidence[3].beside) == (COSINE, 1)
    assert evidence[0].nearest == pytest.approx(COSINE / 2, rel=0.05)


def test_a_row_of_zeros_repeats_what_everybody_knows_and_a_member_without_weight_shows_nothing() -> None:
    values = alike(3, 4)
    values[1] = 0
    rows = rows_of(values)
    median = CoordinateMedian([Weighted(row, 1) for row in rows])
    found = found_of(
        [Given(rows[0], True), Given(rows[1], True), None, Given(rows[2], True)],
        median,
        median,
        shown(rows),
        SIZE,
        one_by_one,
    )
    assert found.evidence[1] == Evidence(repeated=OVERLAP, is_voters=True)
    assert found.evidence[2] == NOTHING
    assert {found.evidence[0].beside, found.evidence[3].beside} == {0, 3}
    assert shown(rows_of(values[1:2])).evidence == (Evidence(repeated=OVERLAP, is_voters=True),)


def test_one_row_alone_is_like_itself_and_beside_nobody() -> None:
    assert shown(rows_of(normal(4, 1, SIZE))).evidence == (Evidence(COSINE, LENGTH, 0, 0, 0, True),)


def test_rows_of_members_without_votes_do_not_shift_what_is_usual() -> None:
    rows = [*rows_of(alike(5, 3)), *rows_of(1000 * alike(7, 5))]
    voters = [Weighted(row, 1) for row in rows[:3]]
    median = CoordinateMedian(voters)
    given = [Given(row, place < 3) for place, row in enumerate(rows)]
    found = found_of(given, median, median, NONE, SIZE, one_by_one).evidence
    assert [each.length for each in found[:3]] == [each.length for each in shown(rows[:3]).evidence]
    assert {each.length for each in found[3:]} == {LENGTH_MAX}
    assert [each.is_voters for each in found] == [True] * 3 + [False] * 5


def test_a_voters_nearest_is_a_voter_so_that_others_cannot_copy_it_to_its_harm() -> None:
    values = alike(16, 4)
    values[3] = values[0]
    rows = rows_of(values)
    given = [Given(row, place < 3) for place, row in enumerate(rows)]
    found = found_of(given, rows[0], rows[0], NONE, SIZE, one_by_one).evidence
    assert found[0].nearest < 0.6 * COSINE
    assert (found[3].nearest, found[3].beside) == (COSINE, 0)


def test_what_is_said_of_each_of_a_crowd_is_what_would_be_said_of_it_alone() -> None:
    """It is compared with voters only: a crowd's equal rows are not one another's nearest, nor measured together."""
    values = alike(17, 4 + 2 * CROWD + 1)[:, :300]
    values[-1] = values[4]
    rows = rows_of(values)
    median = CoordinateMedian([Weighted(row, 1) for row in rows[:4]])

    def found(some: Sequence[Row]) -> Testimony:
        given = [*(Given(row, False) for row in some), *(Given(row, True) for row in rows[:4])]
        return found_of(given, median, median, NONE, 300, one_by_one)

    together, crowd = found(rows[4:]).evidence, len(rows) - 4
    for place, row in enumerate(rows[4:]):
        alone = found([row]).evidence[0]
        assert together[place] == structs.replace(alone, beside=alone.beside - 1 + crowd)
    assert together[crowd:] == tuple(
        structs.replace(each, beside=each.beside + crowd) for each in shown(rows[:4], size=300).evidence
    )


@pytest.mark.parametrize("length", [256, 8448])
def test_neither_pieces_nor_threads_change_it(length: int) -> None:
    rows = rows_of(alike(8, 6))
    before = shown(rows_of(alike(8, 4)))
    assert shown(rows, before, sweep=in_pieces(length, 2)) == shown(rows, before)


def test_a_repetition_is_found_though_scaled_or_another_members_or_the_aggregate() -> None:
    rows = rows_of(alike(9, 5))
    before = shown(rows)
    fresh = rows_of(normal(11, 3, SIZE))
    aggregate = CoordinateMedian([Weighted(row, 1) for row in rows])
    scaled = Combination((rows[4],), Mix((3,), 7))
    found = shown([*fresh, scaled, aggregate], before).evidence
    assert [each.repeated for each in found[3:]] == [OVERLAP, OVERLAP]
    assert all(each.repeated < OVERLAP // 2 for each in found[:3])


def test_what_a_member_without_votes_sent_before_makes_no_voter_repeat_it() -> None:
    """It may have been the voter's, announced and not taken yet; what voters sent nobody may send again."""
    slow, quick, own = rows_of(normal(18, 3, SIZE))
    first = [Given(quick, True), Given(slow, False), Given(own, False)]
    before = found_of(first, quick, quick, NONE, SIZE, one_by_one)
    second = [Given(slow, True), Given(own, False), Given(quick, False)]
    found = found_of(second, slow, slow, before, SIZE, one_by_one).evidence
    assert found[0].repeated < OVERLAP // 2
    assert [each.repeated for each in found[1:]] == [OVERLAP, OVERLAP]
    assert found_of([Given(quick, True)], quick, quick, before, SIZE, one_by_one).evidence[0].repeated == OVERLAP


def test_a_crowd_without_votes_does_not_have_what_voters_sent_before_be_forgotten() -> None:
    own, *crowd = rows_of(normal(19, 1 + SKETCHES_MAX, 300))
    testimony = found_of([Given(own, True)], own, own, NONE, 300, one_by_one)
    for round in range(1, ROUNDS_KEPT):
        fresh = rows_of(normal(40 + round, 1, 300))[0]
        given = [Given(fresh, True), *(Given(row, False) for row in crowd)]
        testimony = found_of(given, fresh, fresh, testimony, 300, one_by_one)
        assert found_of([Given(own, True)], own, own, testimony, 300, one_by_one).evidence[0].repeated == OVERLAP
    kept = testimony.sketches
    assert [len(each.voters) for each in kept] == [2] * ROUNDS_KEPT
    assert sum(len(each.voters) + len(each.others) for each in kept) == SKETCHES_MAX


def test_a_repetition_is_forgotten_after_some_rounds() -> None:
    rows = rows_of(normal(12, 2, SIZE))
    testimony = shown(rows)
    for round in range(ROUNDS_KEPT):
        assert shown(rows, testimony).evidence[0].repeated == OVERLAP
        testimony = shown(rows_of(normal(20 + round, 2, SIZE)), testimony)
    assert shown(rows, testimony).evidence[0].repeated < OVERLAP // 2


def test_sparse_rows_do_not_agree_by_their_zeros() -> None:
    random = np.random.default_rng(13)
    values = np.where(random.random((3, SIZE)) < 0.1, normal(14, 3, SIZE), 0)
    sketches = [sketch(row, SIZE) for row in rows_of(values)]
    assert overlap(sketches[0], sketches[0]) == OVERLAP
    assert overlap(sketches[0], sketches[1]) < OVERLAP // 4
    assert overlap(bytes(128), bytes(128)) == 0


@pytest.mark.parametrize("size", [1, 255, 1360, 15_360, 16_385, 1_000_000])
def test_a_sketch_of_any_size_has_at_most_a_bit_for_each_of_1024_values(size: int) -> None:
    made = sketch(rows_of(np.ones((1, size)))[0], size)
    assert int.from_bytes(made, "big").bit_count() == min(size, SKETCHED) or size == 1360
    assert len(made) <= SKETCHED // 8


def test_what_the_largest_round_leaves_fits_into_a_states_header() -> None:
    largest = Evidence(-COSINE, LENGTH_MAX, -COSINE, ROWS_MAX - 1, OVERLAP, True)
    rows = rows_of(normal(15, ROWS_MAX, 300))
    median = rows[0]
    before = Testimony((largest,) * ROWS_MAX, (Sketched((bytes(128),) * SKETCHES_MAX),))
    testimony = found_of([Given(row, True) for row in rows], median, median, before, 300, one_by_one)
    assert [len(each.voters) for each in testimony.sketches] == [SKETCHES_MAX]
    encoded = encode(before)
    assert len(encoded) < STATE_HEADER_BYTES_MAX - 1024
    assert not isinstance(decode(encoded, Testimony, len(encoded)), Malformed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.data())
def test_any_rows_give_evidence_within_its_bounds(seed: int, n: int, data: st.DataObject) -> None:
    values = normal(seed, n, 300)
    for place in range(n):
        match data.draw(st.sampled_from(["as it is", "zero", "huge", "tiny", "copy", "opposite"])):
            case "zero":
                values[place] = 0
            case "huge":
                values[place] *= np.float32(VALUE_MAX / 10)
            case "tiny":
                values[place] *= np.float32(2.0**-80)
            case "copy":
                values[place] = values[0]
            case "opposite":
                values[place] = -values[0]
            case _:
                pass
    rows = rows_of(values)
    testimony = shown(rows, shown(rows[::-1], size=300), size=300)
    encoded = encode(testimony)
    assert decode(encoded, Testimony, len(encoded)) == testimony
