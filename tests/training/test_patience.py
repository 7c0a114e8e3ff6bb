"""How long agreement waits: the spec's silence, and what the largest payload takes at the median rate."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.patience import PAYLOAD_S_MAX, timeouts
from shoal.training.voting_effects import Timeouts
from tests.training.round_member import make_spec

SPEC = make_spec(silence_s=4)
MB = 1_000_000


def test_without_payloads_it_is_the_specs_silence() -> None:
    assert timeouts(SPEC, 0, [MB, MB]) == Timeouts(4.0, 2.0, 2.0)
    assert timeouts(SPEC, 0, ()) == Timeouts(4.0, 2.0, 2.0)


def test_a_payload_adds_what_it_takes_at_the_median_rate() -> None:
    assert timeouts(SPEC, 10 * MB, [MB, 2 * MB, 100 * MB]).propose_s == 9.0
    assert timeouts(SPEC, 10 * MB, [MB, 2 * MB, 100 * MB]).vote_s == 2.0


def test_rates_that_nobody_knows_do_not_count() -> None:
    assert timeouts(SPEC, 10 * MB, [0, 0, 2 * MB, 0]).propose_s == 9.0
    assert timeouts(SPEC, 10 * MB, [0, 0]).propose_s == 4.0


def test_it_is_never_more_than_a_minute() -> None:
    assert timeouts(SPEC, 2**36, [1]).propose_s == 4.0 + PAYLOAD_S_MAX


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=20), st.lists(st.integers(0, 2**62), max_size=20))
def test_fewer_liars_move_it_no_further_than_honest_rates_do(honest: list[int], lies: list[int]) -> None:
    lies = lies[: len(honest) - 1]
    slowest, fastest = (timeouts(SPEC, 10 * MB, [rate]).propose_s for rate in (min(honest), max(honest)))
    assert fastest <= timeouts(SPEC, 10 * MB, [*honest, *lies]).propose_s <= slowest
