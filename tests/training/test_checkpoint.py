"""States and optimizer states survive being saved, and nothing else passes for one."""

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.checkpoint import (
    Local,
    Moments,
    State,
    load_local,
    load_state,
    save_local,
    save_state,
    state_digest,
)
from shoal.training.evidence import Evidence, Sketched, Testimony
from shoal.training.ports import BytesReader
from shoal.training.remembered import EMPTY, REMEMBERED_BYTES_MAX, Remembered, Sighting, remembered_bytes
from shoal.training.tensors import TensorShape, element_count, layout_digest, views

LAYOUT = (TensorShape("a", (3, 5)), TensorShape("b", (7,)), TensorShape("scalar", ()))
COUNT = 23
REMEMBERED = Remembered(
    (Sighting("a", 2), Sighting("b", 3)), Testimony((Evidence(9, 256, 8, 1, 0),), (Sketched((b"\x07",)),))
)


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(COUNT).astype(np.float32)


def saved_state(round_: int = 3) -> bytes:
    return b"".join(save_state(State(round_, vector(1), vector(2)), LAYOUT))


def test_a_state_survives_being_saved() -> None:
    state = load_state(BytesReader(saved_state()), LAYOUT, 1e9)
    assert state.round == 3
    assert np.array_equal(state.parameters, vector(1))
    assert np.array_equal(state.momentum, vector(2))
    assert b"".join(save_state(state, LAYOUT)) == saved_state()


def remembering() -> bytes:
    return b"".join(save_state(State(3, vector(1), vector(2), REMEMBERED), LAYOUT))


def test_what_a_state_remembers_stands_behind_its_vectors_and_is_in_the_digest() -> None:
    assert remembering() == saved_state() + remembered_bytes(REMEMBERED)
    state = load_state(BytesReader(remembering()), LAYOUT, 1e9)
    assert state.remembered == REMEMBERED
    assert state_digest(state, LAYOUT) == blake3(remembering()).digest()
    assert load_state(BytesReader(saved_state()), LAYOUT, 1e9).remembered == EMPTY


@pytest.mark.parametrize(
    "behind",
    [
        b"\x00",
        b"\xc0",
        remembered_bytes(REMEMBERED)[:-1],
        remembered_bytes(REMEMBERED) * 2,
        bytes(REMEMBERED_BYTES_MAX + 1),
    ],
    ids=["zero", "nil", "cut short", "twice", "long"],
)
def test_what_else_stands_behind_a_states_vectors_is_refused(behind: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a saved state|this one"):
        load_state(BytesReader(saved_state() + behind), LAYOUT, 1e9)


def test_voters_from_other_rounds_than_the_states_are_refused() -> None:
    with pytest.raises(ValueError, match="other rounds"):
        load_state(BytesReader(saved_state(30) + remembered_bytes(REMEMBERED)), LAYOUT, 1e9)


def test_the_digest_is_the_hash_of_the_saved_bytes() -> None:
    assert state_digest(State(3, vector(1), vector(2)), LAYOUT) == blake3(saved_state()).digest()
    assert state_digest(State(4, vector(1), vector(2)), LAYOUT) != blake3(saved_state()).digest()


def test_vectors_begin_on_a_cache_line_and_fill_the_rest() -> None:
    assert (len(saved_state()) - 2 * 4 * COUNT) % 64 == 0


def test_a_loaded_state_cannot_be_written_to() -> None:
    state = load_state(BytesReader(saved_state()), LAYOUT, 1e9)
    with pytest.raises(ValueError, match="read-only"):
        state.parameters[0] = 1


@given(st.data())
def test_a_state_changed_anywhere_loads_as_another_state_or_not_at_all(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from((saved_state(), remembering())))
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        state = load_state(BytesReader(changed), LAYOUT, 1e9)
    except ValueError:
        return
    assert b"".join(save_state(state, LAYOUT)) == changed


@given(st.binary(max_size=300))
def test_any_bytes_are_a_state_or_a_value_error(noise: bytes) -> None:
    for data in (noise, b"shoal/st" + noise, saved_state()[:80] + noise):
        with pytest.raises(ValueError, match=r"."):
            load_state(BytesReader(data), LAYOUT, 1e9)
        with pytest.raises(ValueError, match=r"."):
            load_local(BytesReader(data), LAYOUT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e10])
def test_a_state_beyond_its_bound_is_refused(bad: float) -> None:
    momentum = vector(2)
    momentum[11] = bad
    saved = b"".join(save_state(State(1, vector(1), momentum), LAYOUT))
    with pytest.raises(ValueError, match="not finite"):
        load_state(BytesReader(saved), LAYOUT, 1e9)


def test_a_state_of_another_model_is_refused() -> None:
    other = (*LAYOUT[:2], TensorShape("renamed", ()))
    with pytest.raises(ValueError, match="other tensors"):
        load_state(BytesReader(saved_state()), other, 1e9)


@pytest.mark.parametrize("step_s", [None, 0.25])
def test_an_optimizer_state_survives_being_saved(step_s: float | None) -> None:
    local = Local(Moments(50, vector(1), np.abs(vector(2))), step_s)
    loaded = load_local(BytesReader(b"".join(save_local(local, LAYOUT))), LAYOUT)
    assert loaded.moments is not None
    assert (loaded.moments.step_count, loaded.step_s) == (50, step_s)
    assert np.array_equal(loaded.moments.first, vector(1))
    assert loaded.ahead is None
    empty = load_local(BytesReader(b"".join(save_local(Local(None, step_s), LAYOUT))), LAYOUT)
    assert (empty.moments, empty.step_s) == (None, step_s)


@pytest.mark.parametrize("moments", [None, Moments(50, vector(1), np.abs(vector(2)))])
def test_how_far_a_member_is_ahead_survives_being_saved(moments: Moments | None) -> None:
    loaded = load_local(BytesReader(b"".join(save_local(Local(moments, 0.5, vector(3)), LAYOUT))), LAYOUT)
    assert loaded.ahead is not None
    assert np.array_equal(loaded.ahead, vector(3))
    assert (loaded.moments is None) == (moments is None)
    assert loaded.momentum is None


@pytest.mark.parametrize("ahead", [None, vector(3)])
def test_a_members_own_momentum_survives_being_saved(ahead: np.ndarray | None) -> None:
    local = Local(None, 0.5, ahead, vector(4))
    loaded = load_local(BytesReader(b"".join(save_local(local, LAYOUT))), LAYOUT)
    assert loaded.momentum is not None
    assert np.array_equal(loaded.momentum, vector(4))
    assert (loaded.ahead is None) == (ahead is None)


def test_an_optimizer_state_that_cannot_be_is_refused() -> None:
    negative = Local(Moments(50, vector(1), -np.abs(vector(2))), None)
    with pytest.raises(ValueError, match="negative"):
        load_local(BytesReader(b"".join(save_local(negative, LAYOUT))), LAYOUT)
    cut_short = b"".join(save_local(Local(Moments(50, vector(1), np.abs(vector(2))), None), LAYOUT))[:-4]
    with pytest.raises(ValueError, match=f"this one {len(cut_short)}"):
        load_local(BytesReader(cut_short), LAYOUT)
    endless = b"".join(save_local(Local(None, None, np.full(COUNT, np.inf, np.float32)), LAYOUT))
    with pytest.raises(ValueError, match="not finite"):
        load_local(BytesReader(endless), LAYOUT)


def test_a_layout_says_where_each_tensor_lies() -> None:
    flat = np.arange(COUNT, dtype=np.float32)
    parts = views(LAYOUT, flat)
    assert element_count(LAYOUT) == COUNT
    assert {name: part.shape for name, part in parts.items()} == {"a": (3, 5), "b": (7,), "scalar": ()}
    assert parts["b"][0] == 15
    assert np.shares_memory(parts["a"], flat)
    assert layout_digest(LAYOUT) != layout_digest(LAYOUT[::-1])
