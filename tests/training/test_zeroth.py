"""The zeroth-order method: its step, what it refuses, what its audits see, and that a saved state is the state."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training import zeroth_state
from shoal.training.checkpoint import Local
from shoal.training.directions import direction_key, signs
from shoal.training.method import Audits, Method, Share, Turn
from shoal.training.ports import BytesReader
from shoal.training.scalar_codes import decoded, encode
from shoal.training.spec import Spec, swarm_id
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings, parse_settings
from shoal.training.zeroth_state import State

from .quadratic import COUNT, LAYOUT, Quadratic

SPEC = Spec(creator="1" * 52, nonce=bytes(16), method="zeroth")
SWARM = swarm_id(SPEC)
MEMBERS = ("a", "b", "c")
WAYS = {
    "average": ZerothSettings(directions=8, lr=0.02),
    "steps": ZerothSettings(directions=8, lr=0.004, way="steps"),
    "pool": ZerothSettings(directions=8, lr=0.02, pool=64),
}


def method(settings: ZerothSettings, evaluator: Quadratic | None = None) -> Zeroth:
    return Zeroth(SPEC, settings, evaluator or Quadratic())


def turn(round_: int, member: str, base_round: int | None = None, deadline_at: float = float("inf")) -> Turn:
    base = round_ - 1 if base_round is None else base_round
    return Turn(round_, base, member, MEMBERS, 1, deadline_at, lambda: 0.0, lambda: False)


def contributed(
    made: Zeroth, state: State, round_: int, member: str, weight: int = 8, base: int | None = None
) -> Share:
    mine = turn(round_, member, base)
    work = made.contribute(state, Local(), mine)
    payload = BytesReader(b"".join(bytes(piece) for piece in work.payload))
    assert made.check(SPEC, round_, member, work.samples, payload) is None
    return Share(round_, member, work.samples, weight, mine.base_round, payload)


def with_codes(share: Share, codes: bytes) -> Share:
    return replace(share, payload=BytesReader(codes))


def run(made: Zeroth, rounds: int) -> list[State]:
    states = [made.start(SPEC)[0]]
    for round_ in range(1, rounds + 1):
        shares = [contributed(made, states[-1], round_, member) for member in MEMBERS]
        states.append(made.apply(states[-1], shares)[0])
    return states


def value(state: State) -> float:
    return Quadratic().evaluate(state.parameters)["validation_loss"]


def test_it_is_a_method_whose_claims_can_be_audited() -> None:
    made: Method[State, Local] = method(WAYS["average"])
    assert isinstance(made, Audits)


@pytest.mark.parametrize("way", WAYS)
def test_three_members_get_to_a_tenth_of_the_loss(way: str) -> None:
    states = run(method(WAYS[way]), 250)
    assert value(states[-1]) < 0.1 * value(states[0])


def test_a_round_moves_the_state_as_its_slopes_say() -> None:
    made = method(replace_settings(WAYS["average"], bound=1024))
    state, _ = made.start(SPEC)
    codes = {"a": bytes([60, 200, 0]), "b": bytes([90])}
    shares = [
        Share(1, member, 8 * len(each), weight, 0, BytesReader(each))
        for (member, each), weight in zip(codes.items(), (30, 10), strict=True)
    ]
    moved = np.zeros(COUNT)
    for (member, each), part in zip(codes.items(), (0.75, 0.25), strict=True):
        for index, code in enumerate(each):
            key = direction_key(SWARM, 1, 0, member, index)
            z = np.concatenate([signs(key, 0, 0, 35), signs(key, 1, 0, 13)]).astype(np.float64)
            moved -= 0.02 * part / len(each) * decoded(code, -8) * z
    after, evidence = made.apply(state, shares)
    assert evidence == {"contributions": 2.0, "directions": 4.0, "cut": 0.0}
    np.testing.assert_allclose(after.parameters, moved, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_the_order_of_shares_makes_no_difference(way: str) -> None:
    made = method(WAYS[way])
    state = run(made, 2)[-1]
    shares = [contributed(made, state, 3, member) for member in MEMBERS]
    digests = {made.digest(made.apply(state, order)[0]) for order in itertools.permutations(shares)}
    assert len(digests) == 1


def test_a_members_turns_from_one_state_add_up_and_count_once() -> None:
    made = method(replace_settings(WAYS["average"], bound=1024))
    state, _ = made.start(SPEC)
    one, other = contributed(made, state, 1, "a"), contributed(made, state, 1, "b")
    again = contributed(made, state, 2, "a", base=0)
    alone = made.apply(state, [again, replace(other, weight=8)])[0].parameters
    both = made.apply(state, [one, again, other])[0].parameters
    first = made.apply(state, [one, replace(other, weight=8)])[0].parameters
    rest = made.apply(state, [other])[0].parameters / 2
    np.testing.assert_allclose(both, alone + first - rest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_one_slope_in_the_walk_of_a_whole_turn_moves_the_state_by_its_own_weight(way: str) -> None:
    made = method(replace_settings(WAYS[way], bound=1024))
    state, _ = made.start(SPEC)
    whole, short = contributed(made, state, 1, "a", weight=800), contributed(made, state, 2, "a", weight=100, base=0)
    pooled = bytes(2) if WAYS[way].pool else b""
    short = with_codes(short, pooled + bytes([100]))
    nothing = with_codes(short, pooled + bytes(1))
    moved = made.apply(state, [whole, short])[0].parameters - made.apply(state, [whole, nothing])[0].parameters
    np.testing.assert_allclose(np.abs(moved), WAYS[way].lr * decoded(100, -8) / 8, rtol=1e-4)


def test_shares_without_weight_move_the_rounds_number_alone() -> None:
    made = method(WAYS["pool"])
    state = run(made, 1)[-1]
    after, evidence = made.apply(state, [contributed(made, state, 2, "a", weight=0)])
    assert after.round == 2
    assert evidence["contributions"] == 0
    assert np.array_equal(after.parameters, state.parameters)


def test_a_turn_that_runs_out_of_time_sends_the_slopes_it_has() -> None:
    made = method(WAYS["average"])
    state, _ = made.start(SPEC)
    now = itertools.count()
    late = Turn(1, 0, "a", MEMBERS, 1, 5.0, lambda: float(next(now)), lambda: False)
    work = made.contribute(state, Local(), late)
    assert 1 <= work.samples // 8 < 8
    over = Turn(1, 0, "a", MEMBERS, 1, float("inf"), lambda: 0.0, lambda: True)
    assert made.contribute(state, Local(), over).samples == 8


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300])
def test_losses_that_are_no_numbers_are_slopes_that_codes_can_say(loss: float) -> None:
    class Broken(Quadratic):
        def losses(self, parameters: np.ndarray, key: bytes, scale: np.float32, seed: int) -> tuple[float, float]:
            return loss, 1.0

    made = method(WAYS["average"], Broken())
    share = contributed(made, made.start(SPEC)[0], 1, "a")
    assert np.isfinite(made.apply(made.start(SPEC)[0], [share])[0].parameters).all()


@pytest.mark.parametrize(
    ("payload", "samples", "reason"),
    [
        (b"", 8, "0 bytes"),
        (bytes(9), 72, "9 bytes"),
        (bytes([1, 128]), 16, "128 is no slope's code"),
        (bytes(8), 127, "claims 127 samples for 8 slopes"),
        (bytes(8), 2**24, "claims 16777216 samples"),
    ],
)
def test_what_no_honest_turn_sends_is_refused(payload: bytes, samples: int, reason: str) -> None:
    found = method(WAYS["average"]).check(SPEC, 1, "a", samples, BytesReader(payload))
    assert found is not None
    assert reason in found


def test_a_direction_that_the_pool_does_not_have_is_refused() -> None:
    made = method(WAYS["pool"])
    assert made.check(SPEC, 1, "a", 8, BytesReader(bytes([63, 0, 5]))) is None
    assert "direction 64 of a pool of 64" in (made.check(SPEC, 1, "a", 8, BytesReader(bytes([64, 0, 5]))) or "")
    assert "4 bytes" in (made.check(SPEC, 1, "a", 8, BytesReader(bytes(4))) or "")


@given(st.binary(max_size=64), st.integers(1, 2**24), st.sampled_from(sorted(WAYS)))
def test_whatever_is_let_through_leaves_a_sound_state(payload: bytes, samples: int, way: str) -> None:
    made = method(WAYS[way])
    state, _ = made.start(SPEC)
    if made.check(SPEC, 1, "a", samples, BytesReader(payload)) is None:
        after, _ = made.apply(state, [Share(1, "a", samples, 5, 0, BytesReader(payload))])
        assert np.isfinite(after.parameters).all()
        assert made.digest(made.load(BytesReader(saved(made, after)))) == made.digest(after)


def saved(made: Zeroth, state: State) -> bytes:
    return b"".join(bytes(piece) for piece in made.save(state))


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_state_is_the_state(way: str) -> None:
    made = method(WAYS[way])
    for state in run(made, 12):
        loaded = made.load(BytesReader(saved(made, state)))
        assert loaded.parameters.tobytes() == state.parameters.tobytes()
        assert made.digest(loaded) == made.digest(state)
        assert saved(made, loaded) == saved(made, state)


def test_a_pools_state_takes_sixteen_bytes_a_direction_whatever_the_models_size() -> None:
    made = method(ZerothSettings(pool=1024))
    assert len(saved(made, made.start(SPEC)[0])) < 16 * 1024 + 2048


def test_adding_up_a_pool_at_once_gives_the_bits_that_came_round_by_round() -> None:
    made = method(WAYS["pool"])
    state = run(made, 40)[-1]
    assert state.pool is not None
    base = zeroth_state.Base(SWARM, LAYOUT, np.zeros(COUNT, np.float32), 0.02 * 2.0**-8 / 2**12)
    sums = base.sums(state.pool.coefficients)
    assert np.array_equal(sums, state.pool.sums)
    assert base.moved(sums).tobytes() == state.parameters.tobytes()


def test_steep_directions_of_a_pool_are_tried_more_often() -> None:
    made = method(ZerothSettings(directions=8, pool=16))
    state, _ = made.start(SPEC)
    steep = b"".join(bytes([index, 0]) for index in range(8)) + bytes([120] * 4 + [10] * 4)
    flat = b"".join(bytes([index, 0]) for index in range(8, 16)) + bytes([10] * 8)
    shares = [Share(1, member, 128, 8, 0, BytesReader(each)) for member, each in (("a", steep), ("b", flat))]
    state, _ = made.apply(state, shares)
    counts = np.zeros(16)
    for round_ in range(2, 200):
        work = made.contribute(state, Local(), turn(round_, "a"))
        counts[np.frombuffer(bytes(work.payload[0])[:16], "<u2")] += 1
    assert counts[:4].mean() > 2 * counts[4:].mean()
    assert counts.min() > 0


def test_a_state_of_another_pool_or_model_or_cut_short_is_refused() -> None:
    made, pooled = method(WAYS["average"]), method(WAYS["pool"])
    data = saved(made, made.start(SPEC)[0])
    for wrong, reader in (
        (pooled, data),
        (made, saved(pooled, pooled.start(SPEC)[0])),
        (made, data[:-1]),
        (made, data + b"\0"),
        (made, b""),
        (made, data[:-4] + np.array([np.nan], "<f4").tobytes()),
        (Zeroth(SPEC, WAYS["average"], Quadratic(LAYOUT[::-1])), data),
    ):
        with pytest.raises(ValueError, match=r"saved|has|holds|not"):
            wrong.load(BytesReader(reader))


def test_one_that_claims_the_steepest_slopes_moves_the_state_by_the_bound_times_the_others() -> None:
    made = method(replace_settings(WAYS["average"], bound=4))
    state = run(made, 20)[-1]
    honest = [contributed(made, state, 21, member) for member in ("a", "b")]
    share = contributed(made, state, 21, "c")
    steepest = with_codes(share, bytes([127] * 8))
    after, evidence = made.apply(state, [*honest, steepest])
    assert evidence["cut"] >= 8
    usual = np.median([abs(decoded(code, -8)) for each in honest for code in each.payload.read(0, 8)])
    moved = (
        after.parameters.astype(np.float64) - made.apply(state, [*honest, with_codes(share, bytes(8))])[0].parameters
    )
    assert np.abs(moved).max() <= 0.02 / 3 * 4 * 2 * usual


def replace_settings(settings: ZerothSettings, **changes: object) -> ZerothSettings:
    known = {name: getattr(settings, name) for name in settings.__struct_fields__}
    parsed = parse_settings({**known, **changes})
    assert isinstance(parsed, ZerothSettings)
    return parsed


def audited(way: str, forge: dict[str, Sequence[int]] | None = None, skew: float = 0.0) -> dict[str, list[float]]:
    """Opinions of 60 rounds of a machine whose arithmetic differs by `skew`, by member."""
    made = method(replace_settings(WAYS[way], audit_share=0.3))
    judge = method(replace_settings(WAYS[way], audit_share=0.3), Quadratic(skew=skew))
    found: dict[str, list[float]] = {member: [] for member in MEMBERS}
    states = run(made, 3)
    for round_ in range(60):
        for member in MEMBERS:
            share = contributed(made, states[-1], 4 + round_, member, base=3)
            if forge and member in forge:
                data = share.payload.read(0, share.payload.size)
                share = with_codes(share, data[:-8] + bytes(forge[member]))
            seed = round_.to_bytes(32, "big")
            opinion = judge.audit(states[-1], None, share, seed)
            assert judge.is_audited(share, seed, "a", 3) == (opinion is not None)
            if opinion is not None:
                found[member].append(opinion)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_honest_work_passes_every_audit_also_on_a_machine_that_rounds_otherwise(way: str) -> None:
    found = audited(way, skew=2.0**-22)
    assert all(len(opinions) > 40 for opinions in found.values())
    assert all(opinion == 1.0 for opinions in found.values() for opinion in opinions)


@pytest.mark.parametrize("way", WAYS)
def test_made_up_slopes_fail_most_audits(way: str) -> None:
    forge: dict[str, Sequence[int]] = {"a": [70] * 8, "b": [200, 30, 150, 99, 0, 255, 1, 64]}
    found = audited(way, forge)
    assert all(opinion == 1.0 for opinion in found["c"])
    for member in forge:
        assert np.mean(found[member]) < 0.2


def test_whoever_picks_its_directions_from_the_pool_fails_the_audit() -> None:
    made = method(replace_settings(WAYS["pool"], audit_share=1.0))
    state = run(made, 3)[-1]
    share = contributed(made, state, 4, "a", base=3)
    data = bytearray(share.payload.read(0, share.payload.size))
    assert made.audit(state, None, share, bytes(32)) == 1.0
    data[0:2] = ((data[0] + 1) % 64).to_bytes(2, "little")
    assert made.audit(state, None, with_codes(share, bytes(data)), bytes(32)) == 7 / 8


def test_private_samples_are_not_audited() -> None:
    made = method(replace_settings(WAYS["average"], audit="private", audit_share=1.0))
    share = contributed(made, made.start(SPEC)[0], 1, "a")
    assert not made.is_audited(share, bytes(32), "a", 3)
    assert made.audit(made.start(SPEC)[0], None, share, bytes(32)) is None


def test_a_draw_falls_on_the_named_part_of_all_slopes() -> None:
    made = method(replace_settings(WAYS["average"], audit_share=0.05))
    share = Share(1, "a", 128, 8, 0, BytesReader(bytes(8)))
    hits = sum(made.is_audited(share, number.to_bytes(32, "big"), "a", 3) for number in range(4000))
    assert abs(hits / 4000 - (1 - 0.95**8)) < 0.03


def test_of_a_turn_of_one_slope_as_many_are_drawn_as_of_a_whole_one() -> None:
    made = method(replace_settings(WAYS["average"], audit_share=0.05))
    share = Share(1, "a", 16, 8, 0, BytesReader(bytes(1)))
    hits = sum(made.is_audited(share, number.to_bytes(32, "big"), "a", 3) for number in range(4000))
    assert abs(hits / 4000 - 8 * 0.05) < 0.03


def test_slopes_are_tried_on_samples_that_anybody_can_draw() -> None:
    first, second = Quadratic(), Quadratic()
    state = method(WAYS["average"]).start(SPEC)[0]
    contributed(method(WAYS["average"], first), state, 1, "a")
    contributed(method(WAYS["average"], second), state, 1, "a")
    assert first.asked == second.asked
    assert len(set(first.asked)) == 8


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"direction": 8}, "'direction' is not known here"),
        ({"directions": 0}, "directions"),
        ({"directions": 1366, "pool": 8}, "1366 directions take 4098 bytes; 4096 are allowed"),
        ({"pool": 8, "start": "0" * 64}, "leave out start"),
        ({"pool": 8, "audit": "private"}, "somebody has to audit"),
        ({"train_sentences": 1}, "train_sentences"),
        ({"way": "both"}, "way"),
    ],
)
def test_wrong_settings_are_refused_in_a_line(settings: dict[str, object], reason: str) -> None:
    found = parse_settings(settings)
    assert isinstance(found, str)
    assert reason in found


def test_a_slope_is_sent_as_the_code_that_is_nearest() -> None:
    made = method(WAYS["average"], Quadratic(noise=0.0))
    state, _ = made.start(SPEC)
    codes = contributed(made, state, 1, "a").payload.read(0, 8)
    for index, code in enumerate(codes):
        key = direction_key(SWARM, 1, 0, "a", index)
        z = np.concatenate([signs(key, 0, 0, 35), signs(key, 1, 0, 13)]).astype(np.float64)
        assert code == encode(float(-z.sum()), -8) or abs(decoded(code, -8) + z.sum()) < 0.1 * abs(z.sum())
