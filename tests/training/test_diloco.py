"""DiLoCo as a method: its outer step, what it refuses, and that whatever it lets through leaves a sound state."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.checkpoint import Local, Moments, State
from shoal.training.codecs import CODECS
from shoal.training.diloco import Diloco, start_setting
from shoal.training.diloco_settings import DilocoSettings, parse_settings
from shoal.training.local_trainer import Trained
from shoal.training.method import Method, Share, Turn, Work
from shoal.training.payload import VALUE_MAX, Delta, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.spec import Spec
from shoal.training.tensors import Layout, TensorShape

COUNT = 300
LAYOUT = (TensorShape("w", (COUNT,)),)
SPEC = Spec(creator="1" * 52, nonce=bytes(16), samples_max=1000)
MEMBERS = ("a", "b", "c")
TRUSTING = DilocoSettings(rule="mean", attackers=0.0)  # whose states remember nobody: equal ones were moved alike


class Toward:
    """A LocalTrainer that walks half of the way to a target, or to wherever it is told."""

    def __init__(self, target: np.ndarray, samples: int = 8) -> None:
        self.target = target
        self.samples = samples

    @property
    def layout(self) -> Layout:
        return LAYOUT

    def start(self) -> np.ndarray:
        return np.linspace(-1, 1, COUNT, dtype=np.float32)

    def train(self, anchor: np.ndarray, local: Local, turn: Turn) -> Trained:
        moments = Moments(1, anchor * 0, anchor * 0)
        halfway = (anchor + (self.target - anchor) / np.float32(2)).astype(np.float32)
        return Trained(halfway, self.samples, moments, 0.5, {"loss": 1.0})

    def evaluate(self, parameters: np.ndarray) -> Mapping[str, float]:
        return {"distance": float(np.abs(parameters - self.target).max())}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> bytes:
        return prompt * count


def method(settings: DilocoSettings | None = None, target: float = 3.0, samples: int = 8) -> Diloco:
    return Diloco(SPEC, settings or DilocoSettings(), Toward(np.full(COUNT, target, np.float32), samples))


def settings_with(**settings: object) -> DilocoSettings:
    parsed = parse_settings(settings)
    assert isinstance(parsed, DilocoSettings)
    return parsed


def turn(member: str = "a", round_: int = 1) -> Turn:
    return Turn(round_, round_ - 1, member, MEMBERS, 1, float("inf"), lambda: 0.0, lambda: False)


def share(delta: np.ndarray, member: str = "a", weight: int = 1, base_round: int = 0) -> Share:
    payload = BytesReader(b"".join(write_payload("float32", LAYOUT, delta.astype(np.float32))))
    return Share(base_round + 1, member, 1, weight, base_round, payload)


def share_of(work: Work[Local], round_: int, member: str = "a") -> Share:
    return Share(round_, member, work.samples, work.samples, 0, BytesReader(b"".join(work.payload)))


def random_vector(seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(COUNT) * scale).astype(np.float32)


def test_it_is_a_method() -> None:
    made: Method[State, Local] = method()
    assert made.start(SPEC)[0].round == 0


def test_the_outer_step_is_nesterovs_as_torch_takes_it() -> None:
    made = method()
    state, _ = made.start(SPEC)
    theirs = torch.nn.Parameter(torch.as_tensor(state.parameters.copy()))
    optimizer = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    for round_ in range(6):
        delta = random_vector(round_)
        theirs.grad = torch.as_tensor(delta)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        state, _ = made.apply(state, [share(delta, base_round=round_)])
    assert np.allclose(state.parameters, theirs.detach().numpy(), atol=1e-4)
    assert state.round == 6


def test_the_first_step_from_rest_is_lr_times_one_plus_momentum() -> None:
    state, _ = method().start(SPEC)
    after, _ = method().apply(state, [share(np.ones(COUNT))])
    assert np.allclose(state.parameters - after.parameters, 0.7 * 1.9, atol=1e-6)


@given(st.permutations(MEMBERS))
def test_the_order_in_which_shares_come_does_not_matter(order: list[str]) -> None:
    made = method()
    state, _ = made.start(SPEC)
    shares = [share(random_vector(ord(member)), member, weight=ord(member)) for member in order]
    expected, _ = made.apply(state, sorted(shares, key=lambda s: s.member))
    assert made.digest(made.apply(state, shares)[0]) == made.digest(expected)


def test_nor_does_that_of_one_members_shares_for_one_round_from_two_states() -> None:
    made = method()
    state, _ = made.start(SPEC)
    old = replace(share(random_vector(1), "b"), turn_round=2)
    shares = [share(random_vector(3), "a"), old, share(random_vector(2), "b", base_round=1)]
    expected, _ = made.apply(state, shares)
    assert made.digest(made.apply(state, shares[::-1])[0]) == made.digest(expected)


def test_a_swarm_arrives_where_its_members_pull() -> None:
    made = method(DilocoSettings(outer_momentum=0.5))
    state, local = made.start(SPEC)
    for round_ in range(30):
        works = [made.contribute(state, local, turn(member, round_ + 1)) for member in MEMBERS]
        shares = [
            Share(round_ + 1, member, work.samples, work.samples, round_, BytesReader(b"".join(work.payload)))
            for member, work in zip(MEMBERS, works, strict=True)
        ]
        state, evidence = made.apply(state, shares)
        assert evidence == {"contributions": 3.0, "stale": 0.0}
    assert made.evaluate(state)["distance"] < 0.01


def test_what_has_no_weight_is_left_out() -> None:
    made = method(TRUSTING)
    state = replace(made.start(SPEC)[0], round=5)
    fresh, late = share(random_vector(1), "a", base_round=5), share(random_vector(2), "b", weight=0, base_round=3)
    both, evidence = made.apply(state, [fresh, late])
    assert evidence == {"contributions": 1.0, "stale": 0.0}
    assert made.digest(both) == made.digest(made.apply(state, [fresh])[0])
    nothing, _ = made.apply(state, [late])
    assert (nothing.round, nothing.parameters is state.parameters) == (6, True)


def test_a_contribution_counts_by_its_weight_and_not_by_its_samples() -> None:
    made = method()
    state, _ = made.start(SPEC)
    shares = [share(random_vector(seed), member, weight=seed) for seed, member in enumerate(MEMBERS, 1)]
    boasting = [replace(each, samples=1000 - each.weight) for each in shares]
    assert made.digest(made.apply(state, boasting)[0]) == made.digest(made.apply(state, shares)[0])


def test_several_turns_of_a_member_from_one_state_count_as_one_longer_turn() -> None:
    made = method()
    state, _ = made.start(SPEC)
    other, parts = share(random_vector(1), "b", weight=5), [random_vector(seed) for seed in (2, 3, 4)]
    turns = [replace(share(part, "a", weight=3), turn_round=round_) for round_, part in enumerate(parts, 1)]
    longer = share(parts[0] + parts[1] + parts[2], "a", weight=3)
    assert made.digest(made.apply(state, [*turns, other])[0]) == made.digest(made.apply(state, [longer, other])[0])


def test_turns_of_a_member_from_different_states_count_each() -> None:
    made = method(TRUSTING)
    state = replace(made.start(SPEC)[0], round=1)
    old, new = share(random_vector(1), "a", weight=1), share(random_vector(2), "a", weight=3, base_round=1)
    elsewhere = replace(old, member="b")
    assert made.digest(made.apply(state, [old, new])[0]) == made.digest(made.apply(state, [new, elsewhere])[0])


def test_more_turns_give_a_member_no_more_weight() -> None:
    made = method()
    state, _ = made.start(SPEC)
    still = [replace(share(np.zeros(COUNT), "a", weight=7), turn_round=round_) for round_ in range(1, 20)]
    moving = share(random_vector(1), "b", weight=7)
    assert made.digest(made.apply(state, [*still, moving])[0]) == made.digest(made.apply(state, [still[0], moving])[0])


def test_who_cannot_be_taken_goes_on_and_contributes_only_what_is_new() -> None:
    made = method()
    state, local = made.start(SPEC)
    before = made.digest(state)
    position, works = state.parameters.astype(np.float64), list[Work[Local]]()
    for round_ in (1, 2, 3):
        works.append(made.contribute(state, local, turn(round_=round_)))
        local = works[-1].local
        trained = position + (3.0 - position) / 2
        delta = share_of(works[-1], round_).payload
        assert made.check(SPEC, round_, "a", works[-1].samples, delta) is None
        assert local.ahead is not None
        assert np.allclose(local.ahead, state.parameters - trained, atol=1e-6)
        moved = np.frombuffer(delta.read(delta.size - 4 * COUNT, 4 * COUNT), "<f4")
        assert np.allclose(moved, position - trained, atol=1e-6)
        position = trained
    assert made.digest(state) == before


def test_what_was_contributed_stays_as_it_is_when_the_next_is_made() -> None:
    made = method()
    state, local = made.start(SPEC)
    first = made.contribute(state, local, turn())
    payload, ahead = b"".join(first.payload), first.local.ahead
    assert ahead is not None
    kept = ahead.copy()
    made.contribute(state, first.local, turn(round_=2))
    made.contribute(state, first.local, turn(round_=2))
    assert b"".join(first.payload) == payload
    assert np.array_equal(ahead, kept)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_what_a_codec_lost_of_one_contribution_is_not_made_up_for_in_the_next(codec: str) -> None:
    """The next one is what the steps since have done, so nobody counts twice where only some are taken."""
    made, exact = method(settings_with(codec=codec)), method()
    state, local = made.start(SPEC)
    first, exact_first = made.contribute(state, local, turn()), exact.contribute(state, local, turn())
    assert first.local.ahead is not None
    assert exact_first.local.ahead is not None
    assert np.array_equal(first.local.ahead, exact_first.local.ahead)
    second = made.contribute(state, first.local, turn(round_=2))
    assert second.local.ahead is not None
    moved = second.local.ahead - first.local.ahead
    expected = b"".join(write_payload(codec, LAYOUT, moved))
    assert np.allclose(decoded(codec, b"".join(second.payload)), decoded(codec, expected), atol=0.02)
    assert np.abs(decoded(codec, expected) - moved).max() > 0 or codec == "float32"


def decoded(codec: str, payload: bytes) -> np.ndarray:
    opened = open_payload(BytesReader(payload), codec, LAYOUT)
    assert isinstance(opened, Delta)
    return opened.values(0, COUNT)


def test_a_restart_neither_loses_nor_doubles_how_far_a_member_is_ahead() -> None:
    made = method()
    state, local = made.start(SPEC)
    for round_ in (1, 2):
        local = made.contribute(state, local, turn(round_=round_)).local
    restarted = made.load_local(BytesReader(b"".join(made.save_local(local))))
    unbroken, again = (made.contribute(state, each, turn(round_=3)) for each in (local, restarted))
    assert b"".join(unbroken.payload) == b"".join(again.payload)


def test_with_a_momentum_of_its_own_a_member_contributes_a_mean_of_its_turns_from_zero_on() -> None:
    made = method(settings_with(worker_momentum=0.75, outer_momentum=0, outer_lr=4))
    plain = method()
    state, local = made.start(SPEC)
    expected = np.zeros(COUNT)
    for round_ in range(1, 6):
        own = plain.contribute(state, Local(), turn(round_=round_))
        expected = 0.75 * expected + 0.25 * decoded("float32", b"".join(own.payload))
        work = made.contribute(state, local, turn(round_=round_))
        assert np.allclose(decoded("float32", b"".join(work.payload)), expected, rtol=1e-5, atol=1e-6)
        state, _ = made.apply(state, [share_of(work, round_)])
        local = made.load_local(BytesReader(b"".join(made.save_local(made.settle(work.local, state, True)))))
    newcomer = made.contribute(state, Local(), turn(round_=6))
    own = plain.contribute(state, Local(), turn(round_=6))
    quarter = decoded("float32", b"".join(own.payload)) / 4
    assert np.allclose(decoded("float32", b"".join(newcomer.payload)), quarter, rtol=1e-6)


def test_one_momentum_takes_the_place_of_the_other() -> None:
    assert parse_settings({"worker_momentum": 0.9}) == (
        "diloco settings: worker_momentum takes the place of outer_momentum: set that to 0 (both together stall)"
    )
    assert settings_with(worker_momentum=0.9, outer_momentum=0).worker_momentum == 0.9


def test_the_next_shared_state_ends_being_ahead() -> None:
    made = method()
    state, local = made.start(SPEC)
    work = made.contribute(state, local, turn())
    after, _ = made.apply(state, [share_of(work, 1)])
    settled = made.settle(work.local, after, True)
    assert settled.ahead is None
    fresh = made.contribute(after, Local(), turn(round_=2))
    assert b"".join(made.contribute(after, settled, turn(round_=2)).payload) == b"".join(fresh.payload)


def test_a_turn_without_samples_or_that_diverged_leaves_a_member_as_far_ahead_as_it_was() -> None:
    made = method()
    state, local = made.start(SPEC)
    ahead = made.contribute(state, local, turn()).local
    for broken in (method(samples=0), method(target=np.inf)):
        work = broken.contribute(state, ahead, turn(round_=2))
        assert work.samples == 0
        assert work.local.ahead is ahead.ahead


def test_a_round_without_contributions_moves_nothing_but_its_number() -> None:
    made = method()
    state, _ = made.apply(made.start(SPEC)[0], [share(random_vector(1))])
    after, _ = made.apply(state, [])
    assert after.round == 2
    assert np.array_equal(after.parameters, state.parameters)
    assert np.array_equal(after.momentum, state.momentum)


def test_applying_leaves_the_old_state_alone_and_the_new_one_read_only() -> None:
    made = method()
    state, _ = made.start(SPEC)
    before = made.digest(state)
    after, _ = made.apply(state, [share(random_vector(1))])
    assert made.digest(state) == before
    for vector in (state.parameters, after.parameters, after.momentum):
        assert not vector.flags.writeable


def test_a_contribution_is_what_check_lets_through() -> None:
    for codec in sorted(CODECS):
        made = method(settings_with(codec=codec))
        state, local = made.start(SPEC)
        work = made.contribute(state, local, turn())
        assert made.check(SPEC, 1, "a", work.samples, BytesReader(b"".join(work.payload))) is None
        assert work.metrics == {"loss": 1.0}
        assert work.local.step_s == 0.5


def test_samples_are_capped_by_the_spec() -> None:
    made = method(samples=10**9)
    state, local = made.start(SPEC)
    work = made.contribute(state, local, turn())
    assert work.samples == SPEC.samples_max
    payload = BytesReader(b"".join(work.payload))
    assert made.check(SPEC, 1, "a", 1000, payload) is None
    for samples in (0, -1, 1001):
        assert "samples" in (made.check(SPEC, 1, "a", samples, payload) or "")


@pytest.mark.parametrize("target", [np.nan, np.inf, 1e30])
def test_training_that_diverged_contributes_nothing_and_starts_its_optimizer_afresh(target: float) -> None:
    made = method(target=target)
    state, local = made.start(SPEC)
    work = made.contribute(state, local, turn())
    assert (work.samples, b"".join(work.payload), work.metrics["diverged"]) == (0, b"", 1.0)
    assert work.local.moments is None
    assert made.check(SPEC, 1, "a", work.samples, BytesReader(b"".join(work.payload))) is not None


def test_a_turn_without_samples_contributes_nothing() -> None:
    made = method(samples=0)
    state, local = made.start(SPEC)
    assert made.contribute(state, local, turn()).samples == 0


def test_a_payload_larger_than_the_spec_allows_is_refused() -> None:
    small = Spec(creator="1" * 52, nonce=bytes(16), payload_bytes_max=100)
    assert "allows 100" in (method().check(small, 1, "a", 1, share(random_vector(1)).payload) or "")


@given(st.data())
def test_whatever_check_lets_through_leaves_a_state_that_loads(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(sorted(CODECS)))
    made = method(settings_with(codec=codec))
    state, _ = made.start(SPEC)
    payload = bytearray(b"".join(write_payload(codec, LAYOUT, random_vector(data.draw(st.integers(0, 9)), 1e5))))
    for _ in range(data.draw(st.integers(0, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    reader = BytesReader(payload)
    if made.check(SPEC, 1, "a", 5, reader) is not None:
        return
    for round_ in range(3):
        state, _ = made.apply(state, [Share(round_ + 1, "a", 5, 5, round_, reader)])
    loaded = made.load(BytesReader(b"".join(made.save(state))))
    assert made.digest(loaded) == made.digest(state)


def test_the_largest_steps_for_long_stay_within_what_loads() -> None:
    made = method(DilocoSettings(outer_lr=10.0, outer_momentum=0.99))
    state, _ = made.start(SPEC)
    largest = np.full(COUNT, VALUE_MAX)
    for round_ in range(300):
        state, _ = made.apply(state, [share(largest, base_round=round_)])
    assert made.load(BytesReader(b"".join(made.save(state)))).round == 300


def test_a_spec_may_fix_the_first_state() -> None:
    start = start_setting(Toward(np.zeros(COUNT, np.float32)).start(), LAYOUT)
    made = method(DilocoSettings(start=start))
    assert made.start_digest(SPEC) == made.digest(made.start(SPEC)[0])
    assert method().start_digest(SPEC) is None


def test_another_swarms_state_becomes_round_0_with_its_momentum() -> None:
    made = method()
    state, _ = made.apply(made.start(SPEC)[0], [share(random_vector(1))])
    restarted = made.restart(state)
    assert restarted.round == 0
    assert np.array_equal(restarted.parameters, state.parameters)
    assert np.array_equal(restarted.momentum, state.momentum)
    went_on, again = (made.apply(each, [share(random_vector(2))])[0] for each in (state, restarted))
    assert np.array_equal(went_on.parameters, again.parameters)


@pytest.mark.parametrize("taken", [True, False])
def test_the_optimizers_moments_are_kept_whether_taken_or_not(taken: bool) -> None:
    made = method()
    state, local = made.start(SPEC)
    after = made.contribute(state, local, turn()).local
    assert made.settle(after, state, taken).moments is after.moments
    loaded = made.load_local(BytesReader(b"".join(made.save_local(after))))
    assert loaded.moments is not None
    assert loaded.moments.step_count == 1
