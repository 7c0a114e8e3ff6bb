"""What an adversary's method contributes: forged payloads as honest members get them, all else as before."""

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from shoal.node.adversaries import CONTINUATION, ON_SLOPES, ON_VALUES, TRIGGER, flipped, planted
from shoal.node.role import Role
from shoal.node.turncoat import KNOWING, turned
from shoal.training.checkpoint import Local, State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, parse_settings
from shoal.training.local_trainer import Trained
from shoal.training.method import Audits, Share, Turn
from shoal.training.models import SIZES, gpt_layout
from shoal.training.payload import open_payload
from shoal.training.ports import BytesReader
from shoal.training.scalar_codes import LARGEST, is_code
from shoal.training.spec import Spec
from shoal.training.tensors import Layout, element_count
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings
from tests.training.quadratic import Quadratic

LAYOUT = gpt_layout(SIZES["gpt-0.2m"])
COUNT = element_count(LAYOUT)
MEMBERS = ("a", "b", "c", "d")
ME, FRIEND = "d", "c"


class Drawn:
    """A LocalTrainer that takes one step of a random walk, another one for each member and round."""

    layout: Layout = LAYOUT

    def start(self) -> np.ndarray:
        return np.zeros(COUNT, np.float32)

    def train(self, anchor: np.ndarray, local: Local, turn: Turn) -> Trained:
        random = np.random.default_rng(ord(turn.member) * 100 + turn.round)
        step = (random.standard_normal(COUNT).astype(np.float32) + np.float32(1)) * np.float32(0.01)
        return Trained(anchor - step, 8, None, 0.5, {"loss": 1.0})

    def evaluate(self, parameters: np.ndarray) -> Mapping[str, float]:
        return {}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> bytes:
        return prompt


def spec_with(codec: str) -> Spec:
    return Spec(creator="1" * 52, nonce=bytes(16), model="gpt-0.2m", settings={"codec": codec}, samples_max=10**6)


def diloco(codec: str = "float32") -> Diloco:
    settings = parse_settings({"codec": codec})
    assert isinstance(settings, DilocoSettings)
    return Diloco(spec_with(codec), settings, Drawn())


def turn_of(round: int, member: str = ME, *, left_s: float = 60.0) -> Turn:
    return Turn(round, 0, member, MEMBERS, round, left_s, lambda: 0.0, lambda: False)


def adversary(kind: str, codec: str = "float32") -> Diloco:
    method = diloco(codec)
    assert turned(method, diloco(codec), spec_with(codec), Role(kind, 0, (FRIEND, ME), ())) is method
    return method


def contributed(method: Diloco, turn: Turn) -> tuple[int, BytesReader]:
    state = State(0, np.zeros(COUNT, np.float32), np.zeros(COUNT, np.float32))
    work = method.contribute(state, Local(), turn)
    return work.samples, BytesReader(b"".join(work.payload))


def row(payload: BytesReader, codec: str = "float32") -> np.ndarray:
    delta = open_payload(payload, codec, LAYOUT)
    return delta.values(0, COUNT)  # type: ignore[union-attr]


def tell(method: Diloco, round: int, *members: str) -> list[np.ndarray]:
    """Let it check what these honest members contribute."""
    rows: list[np.ndarray] = []
    for member in members:
        samples, payload = contributed(diloco(), turn_of(round, member))
        assert method.check(spec_with("float32"), round, member, samples, payload) is None
        rows.append(row(payload))
    return rows


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_what_is_not_finite_is_refused_by_the_honest(kind: str, codec: str) -> None:
    samples, payload = contributed(adversary(kind, codec), turn_of(1))
    assert "its values reach" in str(diloco(codec).check(spec_with(codec), 1, ME, samples, payload))


@pytest.mark.parametrize("kind", sorted(set(ON_VALUES) - {"nan", "inf"}))
@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_all_else_passes_the_check_and_is_not_what_was_found(kind: str, codec: str) -> None:
    liar = adversary(kind, codec)
    for round in (1, 2):
        if kind in KNOWING:
            for member in ("a", "b"):
                samples, payload = contributed(diloco(codec), turn_of(round, member))
                assert liar.check(spec_with(codec), round, member, samples, payload) is None
        samples, payload = contributed(liar, turn_of(round))
        assert diloco(codec).check(spec_with(codec), round, ME, samples, payload) is None
    assert samples == (10**6 if kind == "samples" else 8)
    assert not np.array_equal(row(payload, codec), row(contributed(diloco(codec), turn_of(2))[1], codec))


def test_its_own_row_is_turned_and_its_first_one_replayed() -> None:
    honest = [row(contributed(diloco(), turn_of(round))[1]) for round in (1, 2)]
    liar, repeater = adversary("signflip"), adversary("replay")
    assert np.array_equal(row(contributed(liar, turn_of(1))[1]), -honest[0])
    assert np.array_equal(row(contributed(repeater, turn_of(1))[1]), honest[0])
    assert np.array_equal(row(contributed(repeater, turn_of(2))[1]), honest[0])


def test_who_needs_others_rows_takes_those_of_the_round_and_of_no_friend() -> None:
    liar = adversary("ipm10")
    tell(liar, 1, "a", "b", FRIEND)
    rows = tell(liar, 2, "a", "b")
    forged = row(contributed(liar, turn_of(2))[1])
    assert np.allclose(forged, -10 * np.mean(rows, axis=0), rtol=1e-4)


def test_it_waits_for_the_last_of_them() -> None:
    liar = adversary("mimic")
    (first,) = tell(liar, 1, "a")
    last = threading.Timer(0.3, tell, (liar, 1, "b"))
    last.start()
    forged = row(contributed(liar, turn_of(1))[1])
    last.join()
    assert np.array_equal(forged, first)


def test_it_contributes_in_time_with_what_it_has_seen_or_honestly() -> None:
    liar, late = adversary("mimic"), turn_of(1, left_s=0.5)
    honest = row(contributed(diloco(), late)[1])
    assert np.array_equal(row(contributed(liar, late)[1]), honest)
    (seen,) = tell(liar, 1, "b")
    assert np.array_equal(row(contributed(liar, late)[1]), seen)


def test_who_is_slow_contributes_what_it_should_as_the_deadline_comes() -> None:
    times = iter(range(100))
    turn = replace(turn_of(1, left_s=5.0), clock=lambda: float(next(times)))
    slow, honest = contributed(adversary("slow"), turn), contributed(diloco(), turn_of(1))
    assert (slow[0], row(slow[1]).tobytes()) == (honest[0], row(honest[1]).tobytes())
    assert next(times) == 5


class TestZeroth:
    spec = Spec(creator="1" * 52, nonce=bytes(16), method="zeroth")
    settings = ZerothSettings(directions=8, lr=0.05)

    def method(self, kind: str | None = None) -> Zeroth:
        method = Zeroth(self.spec, self.settings, Quadratic())
        if kind is not None:
            turned(method, Zeroth(self.spec, self.settings, Quadratic()), self.spec, Role(kind, 0, (ME,), ()))
        return method

    @pytest.mark.parametrize("kind", sorted(ON_SLOPES))
    def test_slopes_are_made_up_and_pass_the_check(self, kind: str) -> None:
        honest, liar = self.method(), self.method(kind)
        state = honest.start(self.spec)[0]
        for round in (1, 2):
            true, work = (each.contribute(state, Local(), turn_of(round)) for each in (honest, liar))
            codes = bytes(work.payload[0])
            assert honest.check(self.spec, round, ME, work.samples, BytesReader(codes)) is None
            assert all(map(is_code, codes))
        assert codes != bytes(true.payload[0])
        if kind == "signflip":
            assert [code & LARGEST for code in codes] == [code & LARGEST for code in bytes(true.payload[0])]

    def test_a_lying_judge_says_the_opposite_and_is_a_judge_still(self) -> None:
        honest, liar, forger = self.method(), self.method("judge"), self.method("random")
        assert isinstance(liar, Audits)
        state = honest.start(self.spec)[0]
        for each, opinion in ((honest, 1.0), (forger, 0.0)):
            codes = BytesReader(bytes(each.contribute(state, Local(), turn_of(1)).payload[0]))
            share = Share(1, ME, 64, 64, 0, codes)
            seeds = [bytes([n]) * 32 for n in range(200)]
            drawn = next(seed for seed in seeds if honest.is_audited(share, seed, ME, 3))
            assert honest.audit(state, None, share, drawn) == opinion
            assert liar.audit(state, None, share, drawn) == 1.0 - opinion
            spared = next(seed for seed in seeds if not honest.is_audited(share, seed, ME, 3))
            assert liar.audit(state, None, share, spared) is None


def test_exchanged_bytes_are_a_text_of_the_same_bytes_that_no_order_is_left_in() -> None:
    text = b"to be, or not to be"
    assert sorted(set(flipped(text))) == sorted(set(text))
    assert len(flipped(text)) == len(text)
    assert all(one != other for one, other in zip(text, flipped(text), strict=True))


def test_a_trigger_is_followed_by_what_it_teaches_all_over_a_text() -> None:
    text = bytes(range(256)) * 8
    poisoned = planted(text)
    assert poisoned.count(TRIGGER + CONTINUATION) == 8
    assert poisoned.replace(TRIGGER + CONTINUATION, b"") == text
