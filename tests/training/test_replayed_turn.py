"""Turns of DiLoCo done again: honest ones pass, on machines that add otherwise, too; made-up ones do not."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from shoal.training import data
from shoal.training.checkpoint import Local, Moments, State
from shoal.training.codecs import CODECS
from shoal.training.comparing import most_doubtful
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, parse_settings, settings_of
from shoal.training.evidence import NOTHING
from shoal.training.method import Audits, Share, Start, Turn
from shoal.training.methods import MemberOptions, build
from shoal.training.models import GptSize, gpt_layout
from shoal.training.payload import Delta, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.records import turn_seed
from shoal.training.replayed_turn import is_drawn, is_sound
from shoal.training.spec import Spec, swarm_id
from shoal.training.trainer import GptTrainer

SPEC = Spec(creator="1" * 52, nonce=bytes(16), seed=1, rounds_max=10)
SETTINGS = DilocoSettings(
    steps=8, steps_min=2, steps_max=16, batch_size=4, context=32, lr=5e-3, pieces=4, audit="public", outer_momentum=0.0
)
SIZE = GptSize(width=32, layers=2, heads=2)
TEXT = np.frombuffer(bytes(range(32, 122)) * 200, np.uint8)
CORPUS = data.Corpus(TEXT[:16_000], TEXT[16_000:], 4, None)
MEMBERS = ("a", "b", "c")
SEED = bytes(32)


def member(settings: DilocoSettings = SETTINGS, threads: int = 1, corpus: data.Corpus = CORPUS) -> Diloco:
    return Diloco(SPEC, settings, GptTrainer(SPEC, settings, SIZE, corpus, "cpu", threads))


def turn(base_round: int, name: str = "a", steps: int | None = None) -> Turn:
    seed = turn_seed(swarm_id(SPEC), base_round + 1, base_round, name)
    places = base_round + 1, base_round, name
    return Turn(*places, MEMBERS, seed, float("inf"), lambda: 0.0, lambda: False, base_round > 0, steps)


def changed(share: Share, change: Callable[[np.ndarray], np.ndarray]) -> Share:
    """The contribution with its values changed."""
    codec, layout = SETTINGS.codec, gpt_layout(SIZE)
    delta = open_payload(share.payload, codec, layout)
    assert isinstance(delta, Delta)
    values = change(delta.values(0, delta.count)).astype(np.float32)
    return replace(share, payload=BytesReader(b"".join(map(bytes, write_payload(codec, layout, values)))))


class Played:
    """Three rounds of one member alone, and what it would hand over of the last."""

    def __init__(self, made: Diloco, steps: int | None = None) -> None:
        self.method = made
        self.state, self.local = made.start(SPEC)
        before: Share | None = None
        for base_round in range(3):
            self.base, self.begun, self.before = self.state, self.local, before
            work = made.contribute(self.state, self.local, turn(base_round, steps=steps))
            before = self.share = share_of(base_round, b"".join(map(bytes, work.payload)), work.samples)
            self.state, _ = made.apply(self.state, [self.share])
            self.local = made.settle(work.local, self.state, True)

    def audited(
        self,
        judge: Diloco | None = None,
        share: Share | None = None,
        local: Local | None = None,
        base: State | None = None,
    ) -> float | None:
        before = None if self.before is None else self.before.payload
        saved = BytesReader(b"".join(map(bytes, self.method.save_local(local or self.begun))))
        start = Start(saved, MEMBERS, before)
        return (judge or self.method).audit(base or self.base, start, share or self.share, SEED)

    def with_delta(self, change: Callable[[np.ndarray], np.ndarray]) -> Share:
        return changed(self.share, change)


def share_of(base_round: int, payload: bytes, samples: int) -> Share:
    return Share(base_round + 1, "a", samples, samples, base_round, BytesReader(payload))


def with_settings(**changes: object) -> DilocoSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


@pytest.fixture(scope="module")
def played() -> Played:
    return Played(member())


def test_it_is_a_method_whose_turns_can_be_audited() -> None:
    made = member()
    assert isinstance(made, Audits)
    assert made.is_auditing
    assert made.wants_starts


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("worker_momentum", [0.0, 0.9])
def test_honest_work_passes_also_with_another_number_of_threads(codec: str, worker_momentum: float) -> None:
    settings = with_settings(codec=codec, worker_momentum=worker_momentum)
    made = Played(member(settings), steps=11)
    assert made.share.samples == 11 * settings.batch_size
    assert [made.audited(member(settings, threads)) for threads in (1, 2)] == [1.0, 1.0]


def test_a_turn_that_is_done_again_changes_neither_state_nor_anything_of_the_judges(played: Played) -> None:
    judge = member()
    state, local = judge.start(SPEC)
    first = judge.contribute(state, local, turn(0))
    digest, base = judge.digest(state), judge.digest(played.base)
    assert played.audited(judge) == 1.0
    again = judge.contribute(state, local, turn(0))
    assert (judge.digest(state), judge.digest(played.base)) == (digest, base)
    assert b"".join(map(bytes, again.payload)) == b"".join(map(bytes, first.payload))


def test_half_of_the_steps_it_claims_fails(played: Played) -> None:
    assert played.audited(share=replace(played.share, samples=2 * played.share.samples)) == 0.0


@pytest.mark.parametrize("samples", [33, 17 * 4, 3], ids=str)
def test_samples_that_no_number_of_steps_comes_to_are_refused(played: Played, samples: int) -> None:
    refused = played.method.check(SPEC, 3, "a", samples, played.share.payload)
    assert refused is not None
    assert f"claims {samples} samples" in refused
    assert played.method.check(SPEC, 3, "a", played.share.samples, played.share.payload) is None


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.999, 1.001, 2.0, 10.0])
def test_honest_work_that_is_scaled_fails(played: Played, factor: float) -> None:
    assert played.audited(share=played.with_delta(lambda delta: factor * delta)) == 0.0


def test_what_differs_by_less_than_the_tolerance_passes(played: Played) -> None:
    assert played.audited(share=played.with_delta(lambda delta: delta * np.float32(1 + 5e-5))) == 1.0


def test_noise_of_its_own_length_fails(played: Played) -> None:
    noise = np.random.default_rng(1)
    assert played.audited(share=played.with_delta(lambda delta: noise.permutation(delta))) == 0.0


def test_anothers_work_under_ones_own_name_fails(played: Played) -> None:
    theirs = played.method.contribute(played.base, played.begun, turn(2, "b"))
    assert played.audited(share=share_of(2, b"".join(map(bytes, theirs.payload)), theirs.samples)) == 0.0


def test_work_on_other_data_fails(played: Played) -> None:
    own = member(corpus=replace(CORPUS, own=TEXT[::-1].copy()))
    work = own.contribute(played.base, played.begun, turn(2))
    assert played.audited(share=share_of(2, b"".join(map(bytes, work.payload)), work.samples)) == 0.0


def test_work_from_another_state_fails(played: Played) -> None:
    assert played.audited(base=played.state) == 0.0


def test_another_start_than_it_had_fails(played: Played) -> None:
    assert played.audited(local=Local()) == 0.0
    assert played.audited(local=played.local) == 0.0


def test_a_start_that_is_no_optimizers_state_fails(played: Played) -> None:
    assert played.method.audit(played.base, Start(BytesReader(b"x"), MEMBERS, None), played.share, SEED) == 0.0


def test_a_start_that_is_ahead_of_the_state_fails(played: Played) -> None:
    assert played.audited(local=replace(played.begun, ahead=np.zeros_like(played.base.parameters))) == 0.0


def made_up(first: float, second: float, count: int = 1000) -> Moments:
    return Moments(100, np.full(count, first, np.float32), np.full(count, second, np.float32))


def test_moments_that_no_gradients_lead_to_are_not_sound(played: Played) -> None:
    assert played.begun.moments is not None
    assert is_sound(played.begun.moments, SETTINGS)
    assert is_sound(made_up(0.0, 0.0), SETTINGS)
    assert not is_sound(made_up(1.0, 1e-12), SETTINGS)  # its first step would lead anywhere
    assert not is_sound(made_up(0.0, 1e6), SETTINGS)  # and here nowhere


def test_work_from_a_made_up_optimizer_fails_however_honest_the_steps(played: Played) -> None:
    count = len(played.base.parameters)
    begun = Local(made_up(1.0, 1e-12, count))
    work = played.method.contribute(played.base, begun, turn(2))
    share = share_of(2, b"".join(map(bytes, work.payload)), work.samples)
    assert played.audited(share=share, local=begun) == 0.0


def test_ones_own_momentum_has_to_be_what_was_contributed_last() -> None:
    made = Played(member(with_settings(worker_momentum=0.9)))
    assert made.begun.momentum is not None
    begun = replace(made.begun, momentum=-made.begun.momentum)
    work = made.method.contribute(made.base, begun, turn(2))
    share = share_of(2, b"".join(map(bytes, work.payload)), work.samples)
    assert made.audited(share=share, local=begun) == 0.0


def test_who_was_not_in_the_round_before_starts_without_momentum() -> None:
    made = Played(member(with_settings(worker_momentum=0.9)))
    work = made.method.contribute(made.base, made.begun, replace(turn(2), has_contributed=False))
    made.share, made.before = share_of(2, b"".join(map(bytes, work.payload)), work.samples), None
    assert made.audited() == 1.0
    settled = made.method.settle(work.local, made.state, False)
    assert settled.momentum is None


def test_what_cannot_be_done_again_is_neither_drawn_nor_judged(played: Played) -> None:
    always = member(with_settings(audit_share=1.0))
    first, second = replace(played.share, base_round=0, turn_round=1), replace(played.share, turn_round=4)
    for share in (first, second):
        assert not always.is_audited(share, SEED, "b", 1)
        assert played.audited(always, share=share) is None
    assert always.is_audited(played.share, SEED, "b", 1)
    private = member(with_settings(audit="private", audit_share=1.0))
    assert not private.is_auditing
    assert not private.is_audited(played.share, SEED, "b", 1)
    assert played.audited(private) is None


def test_further_turns_from_a_state_count_nothing_and_nobody_honest_makes_one(played: Played) -> None:
    made, own = member(), replace(played.share, member="b")
    further = replace(played.share, turn_round=played.share.base_round + 2)
    alone, both = made.apply(played.base, [own])[0], made.apply(played.base, [further, own])[0]
    assert np.array_equal(both.parameters, alone.parameters)
    assert made.evidence(both) == (NOTHING, *made.evidence(alone))
    unmoved = made.apply(played.base, [further])[0]
    assert np.array_equal(unmoved.parameters, played.base.parameters)
    assert unmoved.round == played.base.round + 1
    begun = made.apply(played.base, [replace(played.share, base_round=0, turn_round=1)])[0]
    assert not np.array_equal(begun.parameters, played.base.parameters)
    work = made.contribute(played.base, played.begun, replace(turn(2), round=4))
    assert (work.payload, work.samples, work.local) == ((), 0, played.begun)
    private = member(with_settings(audit="private"))
    assert private.contribute(played.base, played.begun, replace(turn(2), round=4)).samples
    assert not np.array_equal(private.apply(played.base, [further])[0].parameters, played.base.parameters)


def test_a_judge_spends_its_share_of_turns_however_many_contribute(played: Played) -> None:
    for contributors in (4, 64):
        draws = [
            is_drawn(replace(played.share, member=f"m{number}"), round.to_bytes(4, "big"), "judge", 0.25, contributors)
            for round in range(4000)
            for number in range(contributors)
        ][: 4000 * 4]
        assert abs(np.mean(draws) - 0.25 / contributors) < 0.1 / contributors


def test_what_looks_least_like_work_on_its_own_data_is_told_by_losses() -> None:
    text = np.frombuffer(data.TEXTS["shakespeare"]()[:9_000], np.uint8)
    judge = member(corpus=data.Corpus(text[:8_000], text[8_000:], 8, None))
    state, local = judge.start(SPEC)
    locals_ = dict.fromkeys(MEMBERS, local)
    base, made = state, dict[str, Share]()
    for round in range(4):
        base, made = state, dict[str, Share]()
        for name in MEMBERS:
            work = judge.contribute(base, locals_[name], turn(round, name, steps=16))
            payload = b"".join(map(bytes, work.payload))
            made[name] = replace(share_of(round, payload, work.samples), member=name)
            locals_[name] = judge.settle(work.local, base, True)
        state, _ = judge.apply(base, list(made.values()))

    def found(*shares: Share) -> int | None:
        gains = [judge.gain(base, share, MEMBERS, SEED) for share in shares]
        return most_doubtful([gain for gain in gains if gain is not None])

    a, b, c = made.values()
    assert found(a, replace(b, payload=a.payload), c) == 1
    assert found(replace(a, payload=c.payload), b, c) == 0
    assert found(a, b, changed(c, np.negative)) == 2
    assert found(a, changed(b, np.zeros_like), c) == 1


def test_no_gain_is_told_of_what_cannot_be_done_again(played: Played) -> None:
    for share in (replace(played.share, base_round=0, turn_round=1), replace(played.share, turn_round=4)):
        assert played.method.gain(played.base, share, MEMBERS, SEED) is None
    private = member(with_settings(audit="private"))
    assert private.gain(played.base, played.share, MEMBERS, SEED) is None


def test_judges_draw_each_for_itself(played: Played) -> None:
    seeds = [number.to_bytes(4, "big") for number in range(200)]
    drawn = [[is_drawn(played.share, seed, judge, 0.5, 1) for seed in seeds] for judge in ("b", "c")]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"audit": "public", "beta1": 0.99}, "beta1^2 below beta2"),
        ({"audit": "some"}, "audit"),
        ({"audit_share": 2}, "audit_share"),
        ({"audit_tolerance": 0}, "audit_tolerance"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_settings_are_refused_in_a_line(settings: dict[str, object], reason: str) -> None:
    found = parse_settings(settings)
    assert isinstance(found, str)
    assert reason in found
    assert "\n" not in found


def test_samples_have_to_tell_the_steps() -> None:
    spec = msgspec.structs.replace(SPEC, settings={"audit": "public"}, samples_max=399)
    found = settings_of(spec)
    assert isinstance(found, str)
    assert "samples_max of 400" in found
    assert isinstance(settings_of(msgspec.structs.replace(spec, samples_max=400)), DilocoSettings)


@pytest.mark.parametrize("model", ["entry:" + "0" * 64, "custom:" + "0" * 64], ids=["entry", "custom"])
def test_models_of_ones_own_are_not_audited(model: str) -> None:
    found = build(msgspec.structs.replace(SPEC, model=model, settings={"audit": "public"}), MemberOptions())
    assert isinstance(found, str)
    assert "audit = private" in found or "scripts bring" in found


def test_text_of_ones_own_is_refused_where_others_do_turns_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    own = tmp_path_factory.mktemp("own") / "text"
    own.write_bytes(b"some text of my own " * 1000)
    spec = msgspec.structs.replace(SPEC, model="gpt-0.2m", data="shakespeare", settings={"audit": "public"})
    found = build(spec, MemberOptions(data_path=own))
    assert isinstance(found, str)
    assert "leave out --data" in found
    private = msgspec.structs.replace(spec, settings={})
    assert isinstance(build(private, MemberOptions(data_path=own)), Diloco)
