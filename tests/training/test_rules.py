"""Rules by name: what claims of weight can do to them, and that each has its place."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.method import WEIGHT_MAX
from shoal.training.rows import Weighted, one_by_one
from shoal.training.rules import NOTHING, RULES, aggregate, attackers_most, bounded, filled, rows_least
from tests.training.rows_in_memory import InMemory, normal, weighted, whole

ROBUST = [name for name in RULES if name != "mean"]
WEIGHTS = st.integers(1, WEIGHT_MAX)


def result(name: str, rows: Sequence[Sequence[float]], weights: Sequence[int], f: int) -> list[float]:
    values = weighted([np.array(row) for row in rows], weights)
    return [
        float(value) for value in whole(aggregate(name, values, f, NOTHING, len(rows[0]), one_by_one), len(rows[0]))
    ]


def heights(weights: Sequence[int], f: int) -> list[int]:
    row = InMemory(np.zeros(1, np.float32))
    return [weight for _, weight in bounded([Weighted(row, weight) for weight in weights], f)]


@given(st.lists(WEIGHTS, min_size=1, max_size=20), st.data())
def test_any_f_rows_have_a_third_of_all_weight_at_most_or_their_share_of_the_heaviest(
    weights: list[int], data: st.DataObject
) -> None:
    f = data.draw(st.integers(0, (len(weights) - 1) // 2))
    cut = heights(weights, f)
    assert all(after <= before for after, before in zip(cut, weights, strict=True))
    heaviest = sum(sorted(cut)[len(cut) - f :])
    assert 3 * heaviest <= sum(cut) or len(set(sorted(cut)[-(2 * f + 1) :])) == 1
    assert 2 * heaviest < sum(cut)
    assert len({after for after, before in zip(cut, weights, strict=True) if after < before}) <= 1  # one height for all


def test_weights_are_cut_no_further_than_must_be() -> None:
    assert heights([5, 5, 5, 5, 5], 1) == [5] * 5
    assert heights([1, 1, 2, 2, 100], 1) == [1, 1, 2, 2, 3]
    assert heights([3, 7, 1000], 0) == [3, 7, 1000]
    assert heights([400] * 10 + [1] * 2, 2) == [400] * 10 + [1] * 2
    assert heights([1, 9, 9], 1) == [1, 1, 1]
    assert heights([9, 9, 9, 9, 9, 9, 9, 1, 1, 1], 3) == [9] * 7 + [1] * 3
    with pytest.raises(ValueError, match="4 rows are too few for f = 2: at least 5 are needed"):
        heights([1, 1, 1, 1], 2)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("claim", [100, 101, 10**9, WEIGHT_MAX])
@pytest.mark.parametrize("slow", [1, 50, 99, 100])
def test_two_of_ten_who_claim_what_they_like_and_send_the_largest_values_move_little(
    name: str, claim: int, slow: int
) -> None:
    """Honest rows are near (1, 2); four of them come of slow machines, and have few samples."""
    random = np.random.default_rng(0)
    honest = [[1 + random.normal(0, 0.1), 2 + random.normal(0, 0.1)] for _ in range(8)]
    hostile = [[-(2.0**20), 2.0**20]] * 2
    found = result(name, [*hostile, *honest], [claim] * 2 + [slow] * 4 + [100] * 4, 2)
    assert abs(found[0] - 1) < 1.5, found
    assert abs(found[1] - 2) < 1.5, found


@pytest.mark.parametrize(
    ("name", "members"), [(name, members) for name in RULES for members in range(3 if "krum" in name else 1, 12)]
)
def test_every_rule_makes_something_finite_of_any_weights(name: str, members: int) -> None:
    random = np.random.default_rng(members)
    f = max(0, (members - 3) // 2)
    for _ in range(5):
        weights = [int(weight) for weight in random.choice([1, 2, 399, 400, WEIGHT_MAX], members)]
        rows = random.standard_normal((members, 3)) * 10.0 ** random.integers(-6, 6, (members, 1))
        assert np.isfinite(result(name, [list(row) for row in rows], weights, f)).all()
        assert np.allclose(result(name, [[1.0, -2.0, 0.0]] * members, weights, f), [1.0, -2.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_light_rows_do_not_make_a_rule_give_up(name: str) -> None:
    random = np.random.default_rng(0)
    rows = [list(row) for row in random.standard_normal((64, 3))]
    assert np.isfinite(result(name, rows, [400] * 52 + [1] * 12, 12)).all()


def test_a_sparse_row_does_not_win_where_it_is_alone() -> None:
    """What a row does not name is 0, in every rule: nobody decides a value by being the only one to name it."""
    rows = [[1.0, 0.0]] * 9 + [[1.0, 1000.0]]
    assert result("mean", rows, [1] * 10, 2) == [1.0, 100.0]
    for name in ("median", "trimmed_mean", "multi_krum", "mda", "nnm_trimmed_mean"):
        assert result(name, rows, [1] * 10, 2)[1] == 0.0, name
    for name in ("clipped_mean", "geometric_median", "centered_clipping", "nnm_geometric_median", "flag"):
        assert abs(result(name, rows, [1] * 10, 2)[1]) < 0.3, name


def test_the_share_of_attackers_is_rounded_up_as_far_as_a_rule_bears_that() -> None:
    assert [attackers_most("median", 0.2, voters) for voters in range(1, 12)] == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    assert [attackers_most("krum", 0.2, voters) for voters in range(1, 12)] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
    assert [attackers_most("median", 0.49, voters) for voters in (1, 2, 3, 100, 1024)] == [0, 0, 1, 49, 502]
    assert attackers_most("median", 0.0, 1024) == 0


@pytest.mark.parametrize("name", ROBUST)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.49))
def test_rows_of_zeros_fill_up_to_what_a_rule_needs_and_no_further(
    name: str, count: int, voters: int, share: float
) -> None:
    f = attackers_most(name, share, voters)
    rows = filled(name, weighted(normal(0, count, 3), range(1, count + 1)), f)
    assert len(rows) == max(count, rows_least(name, f))
    assert {weight for _, weight in rows[count:]} <= {count}
    assert np.isfinite(whole(aggregate(name, rows, f, NOTHING, 3, one_by_one), 3)).all()
