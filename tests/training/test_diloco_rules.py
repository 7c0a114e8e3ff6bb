"""DiLoCo under every rule: who has no vote, few contributions and hostile ones move little; all of it to the bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import shoal.training.method as seam
from shoal.training.checkpoint import State
from shoal.training.codecs import CODECS
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.evidence import COSINE, LENGTH, NOTHING
from shoal.training.method import WEIGHT_MAX, Share
from shoal.training.payload import VALUE_MAX, write_payload
from shoal.training.ports import BytesReader
from shoal.training.remembered import EMPTY, LATELY
from shoal.training.rows import LONG_ROWS_MAX, PIECE_VALUES, Sweep, one_by_one
from shoal.training.rules import RULES
from shoal.training.spec import Spec
from shoal.training.sweep_service import ThreadedSweep
from shoal.training.tensors import TensorShape
from tests.training.equal_bits import NoTrainer
from tests.training.rows_in_memory import in_pieces

COUNT = 2 * PIECE_VALUES + 777
LAYOUT = (TensorShape("w", (COUNT,)),)
ROBUST = [rule for rule in RULES if rule != "mean"]
TRUE = np.random.default_rng(0).standard_normal(COUNT).astype(np.float32)  # the step that honest members' data call for


def spec_of(**settings: object) -> Spec:
    return Spec(creator="1" * 52, nonce=bytes(16), members_min=3, members_start=3, settings=dict(settings))  # type: ignore[arg-type]


def method(rule: str, sweep: Sweep = one_by_one, **settings: object) -> Diloco:
    """One whose step is the aggregate itself."""
    spec = spec_of(**{"rule": rule, "outer_lr": 1.0, "outer_momentum": 0.0, **settings})
    parsed = settings_of(spec)
    assert isinstance(parsed, DilocoSettings), parsed
    return Diloco(spec, parsed, NoTrainer(LAYOUT), sweep)


def honest(seed: int) -> np.ndarray:
    return (TRUE + np.random.default_rng(seed).standard_normal(COUNT) / 2).astype(np.float32)


def share(
    member: str, delta: np.ndarray, *, round: int = 1, weight: int = 100, codec: str = "float32", votes: bool = True
) -> Share:
    payload = BytesReader(b"".join(write_payload(codec, LAYOUT, delta.astype(np.float32))))
    return Share(round, member, 1, weight, round - 1, payload, is_voters=votes)


def voters(count: int, round: int = 1) -> list[Share]:
    return [share(f"v{number}", honest(100 * round + number), round=round) for number in range(count)]


def moved(made: Diloco, shares: Sequence[Share], before: State | None = None) -> np.ndarray:
    """By how much the parameters went down."""
    state = before or made.start(Spec(creator="1" * 52, nonce=bytes(16)))[0]
    for each in shares:
        assert made.check(spec_of(), each.turn_round, each.member, each.samples, each.payload) is None
    return state.parameters - made.apply(state, shares)[0].parameters


def after(made: Diloco, rounds: Sequence[Sequence[Share]]) -> State:
    state = made.start(Spec(creator="1" * 52, nonce=bytes(16)))[0]
    for shares in rounds:
        state, _ = made.apply(state, shares)
    return state


def length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_honest_members_move_the_state_where_they_point(rule: str, codec: str) -> None:
    shares = [share(f"v{number}", honest(number), codec=codec) for number in range(8)]
    step = moved(method(rule, codec=codec), shares)
    assert step @ TRUE > 0.8 * length(step) * length(TRUE)
    assert 0.5 < length(step) / length(TRUE) < 1.5


@pytest.mark.parametrize("rule", ROBUST)
def test_two_of_ten_with_the_largest_values_and_weights_there_are_move_little(rule: str) -> None:
    hostile = [share(f"w{number}", np.full(COUNT, VALUE_MAX), weight=WEIGHT_MAX) for number in range(2)]
    step = moved(method(rule), [*voters(8), *hostile])
    assert length(step) < 2 * length(TRUE)
    assert step @ TRUE > 0.5 * length(step) * length(TRUE)


def test_the_mean_bears_nobody() -> None:
    hostile = share("w", np.full(COUNT, VALUE_MAX))
    assert length(moved(method("mean"), [*voters(9), hostile])) > 1000 * length(TRUE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * VALUE_MAX])
def test_what_is_not_finite_or_huge_never_comes_to_a_rule(rule: str, bad: float) -> None:
    delta = honest(1)
    delta[COUNT - 1] = bad
    refused = method(rule).check(spec_of(), 1, "v", 1, share("v", delta).payload)
    assert refused is not None
    assert "its values reach" in refused


@pytest.mark.parametrize("rule", ROBUST)
def test_a_proposer_that_takes_its_own_contribution_alone_moves_next_to_nothing(rule: str) -> None:
    """Centered clipping takes what stands for the others from the aggregate before; of this a fifth is left."""
    made = method(rule)
    state = after(made, [voters(5)])
    alone = [share("v0", np.full(COUNT, VALUE_MAX), round=2, weight=WEIGHT_MAX)]
    assert length(moved(made, alone, state)) < (0.3 * length(TRUE) if rule == "centered_clipping" else 1e-6)
    assert length(moved(made, voters(5, round=2), state)) > 0.5 * length(TRUE)


@pytest.mark.parametrize("rule", ROBUST)
def test_who_has_not_contributed_for_sixteen_rounds_is_not_counted_on(rule: str) -> None:
    made = method(rule)
    rounds = [voters(4), *([share(f"v{number}", honest(number)) for number in range(3)] for _ in range(LATELY))]
    states = [after(made, rounds[:count]) for count in (LATELY, LATELY + 1)]
    members = [[sighting.member for sighting in state.remembered.voters] for state in states]
    assert members == [["v0", "v1", "v2", "v3"], ["v0", "v1", "v2"]]


@pytest.mark.parametrize("rule", RULES)
def test_ten_strangers_move_the_state_by_a_quarter_of_what_eight_voters_do_at_most(rule: str) -> None:
    """Beside it they take a fifth of the weight away from them, however long their rows are."""
    made = method(rule)
    for delta in (np.full(COUNT, VALUE_MAX), -TRUE, -1e-3 * TRUE):
        strangers = [share(f"s{number}", delta, weight=WEIGHT_MAX, votes=False) for number in range(10)]
        alone, together = moved(made, voters(8)), moved(made, [*strangers, *voters(8)])
        assert length(together - 0.8 * alone) <= 0.2 * length(alone) * (1 + 1e-5)
        assert length(together) >= 0.6 * length(alone) * (1 - 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_strangers_neither_count_among_the_rows_nor_move_a_round_alone(rule: str) -> None:
    made = method(rule)
    strangers = [share(f"s{number}", -TRUE, weight=1, votes=False) for number in range(30)]
    light = moved(made, [*strangers, *voters(8)])
    assert length(light - moved(made, voters(8))) < 0.1 * length(light)
    state = after(made, [strangers])
    assert state.round == 1
    assert np.array_equal(state.parameters, made.start(spec_of())[0].parameters)
    assert state.remembered.voters == ()


@pytest.mark.parametrize("rule", RULES)
def test_equal_bits_for_any_pieces_and_threads(rule: str) -> None:
    sweeps: list[Sweep] = [one_by_one, ThreadedSweep(2), ThreadedSweep(3), in_pieces(256), in_pieces(12_288, threads=2)]
    strangers = [share("s", honest(7), votes=False), share("t", honest(8), votes=False)]
    unequal = [share(f"w{number}", honest(number), weight=1 + number**2) for number in range(5)]
    digests: set[bytes] = set()
    for sweep in sweeps:
        made = method(rule, sweep, outer_momentum=0.9)
        digests.add(made.digest(after(made, [voters(8), [*strangers, *voters(6, round=2), *unequal], voters(2)])))
    assert len(digests) == 1


class Watched(BytesReader):
    """Notes the longest read, in bytes."""

    longest = 0

    def read(self, offset: int, length: int) -> bytes:
        self.longest = max(self.longest, length)
        return super().read(offset, length)

    def read_into(self, offset: int, room: memoryview) -> None:
        self.longest = max(self.longest, len(room))
        super().read_into(offset, room)


@pytest.mark.parametrize(("count", "longest"), [(LONG_ROWS_MAX, COUNT), (LONG_ROWS_MAX + 1, PIECE_VALUES)])
def test_what_is_in_memory_of_each_contribution_is_less_where_they_are_many(count: int, longest: int) -> None:
    payload = Watched(b"".join(write_payload("float32", LAYOUT, honest(1))))
    shares = [replace(share(f"{number:02}", TRUE), payload=payload) for number in range(count)]
    after(method("median", in_pieces(COUNT)), [shares])
    assert payload.longest == 4 * longest


@pytest.mark.parametrize("rule", RULES)
def test_contributions_of_a_member_are_one_row_whatever_states_they_start_from(rule: str) -> None:
    """So who contributes often is no majority."""
    made = method(rule, attackers=0.2)
    state = after(made, [voters(6)])
    often = [share("w", -TRUE, round=round, weight=10) for round in (1, 2)]
    often += [Share(2, "w", 1, 10, 0, often[0].payload)]
    step = moved(made, [*voters(6, round=2), *often], state)
    assert step @ TRUE > 0.5 * length(step) * length(TRUE)
    assert len(made.apply(state, [*voters(6, round=2), *often])[0].remembered.testimony.evidence) == 7


@pytest.mark.parametrize("rule", RULES)
def test_the_state_tells_what_the_round_that_made_it_showed_of_everybody(rule: str) -> None:
    made = method(rule)
    assert isinstance(made, seam.Testifies)
    shares = [
        *voters(6),
        share("w-flipped", -TRUE),
        share("x-nothing", np.zeros(COUNT)),
        share("y-late", TRUE, weight=0),
        share("z-stranger", 2 * honest(1), weight=10, votes=False),
    ]
    state = after(made, [shares])
    *honest_ones, flipped, nothing, late, stranger = made.evidence(state)
    assert all(each.similarity > COSINE // 2 for each in honest_ones)
    assert flipped.similarity < -COSINE // 2
    assert (nothing.similarity, nothing.length, late) == (0, 0, NOTHING)
    assert stranger.similarity > COSINE // 2
    assert LENGTH < stranger.length < 3 * LENGTH
    again, _ = made.apply(state, shares)
    assert all(each.repeated > 1000 for each in made.evidence(again)[:6])
    passed, _ = made.apply(again, [share("v0", TRUE, weight=0), share("v1", TRUE, weight=0)])
    assert made.evidence(passed) == (NOTHING, NOTHING)


def test_a_swarm_that_trusts_everybody_remembers_nobody() -> None:
    made = method("mean", attackers=0.0)
    state = after(made, [voters(4), [share("v0", TRUE, weight=0)]])
    assert state.remembered == EMPTY
    assert made.evidence(state) == ()


def test_the_mean_is_the_same_whether_contributions_are_compared_or_not() -> None:
    rounds = [[*voters(4, round=round), share("s", TRUE, weight=20, votes=False)] for round in range(1, 4)]
    trusting, comparing = (after(method("mean", attackers=share), rounds) for share in (0.0, 0.2))
    assert np.array_equal(trusting.parameters, comparing.parameters)
    assert np.array_equal(trusting.momentum, comparing.momentum)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_goes_on_as_before_once_it_was_saved(rule: str) -> None:
    made = method(rule, outer_momentum=0.9)
    state = after(made, [voters(6, round=round) for round in (1, 2, 3)])
    loaded = made.load(BytesReader(b"".join(made.save(state))))
    assert loaded.remembered == state.remembered
    following = [*voters(2, round=4), share("s", TRUE, votes=False)]
    assert made.digest(made.apply(loaded, following)[0]) == made.digest(made.apply(state, following)[0])


def test_centered_clipping_goes_on_from_the_aggregate_before() -> None:
    """Two attackers, of five, that say nothing of it: what stands in their place is what was there, not 0."""
    made = method("centered_clipping", outer_momentum=0.5, attackers=0.4)
    steady = after(made, [[share(f"v{number}", TRUE) for number in range(5)]] * 20)
    assert np.allclose(steady.momentum, 2 * TRUE, rtol=1e-4)
    fresh = after(made, [[share(f"v{number}", TRUE) for number in range(5)]])
    tail = [share("v0", -TRUE, round=21), share("v1", -TRUE, round=21), *voters(3)]
    ahead = made.apply(steady, tail)[0].momentum - steady.momentum / 2
    behind = made.apply(fresh, tail)[0].momentum - fresh.momentum / 2
    assert length(ahead - TRUE) < length(behind - TRUE)
