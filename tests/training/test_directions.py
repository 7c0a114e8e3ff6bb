"""Directions are the keystream that the docstring says, and steps along them what it says, however they are cut."""

import math
import tracemalloc
from itertools import accumulate, pairwise

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.codecs import TINY, flush_tiny
from shoal.training.directions import BLOCK, GROUP, PIECE, add_sums, direction_key, perturbed, pool_key, signs, step
from shoal.training.tensors import Layout, TensorShape, element_count
from shoal.transport.wire import encode

SWARM = bytes(range(32))
SMALLEST = np.finfo(np.float32).smallest_normal

SIZES = st.sampled_from([1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 576, 1_000])
COUNTS = st.integers(0, 3 * BLOCK + 9)
SCALES = st.builds(math.ldexp, st.floats(-1, 1, width=32), st.sampled_from([-90, -80, -79, -10, 0, 3])).map(np.float32)
LAYOUTS = st.lists(SIZES, max_size=6).map(lambda sizes: layout_of(*sizes))


def layout_of(*sizes: int) -> Layout:
    return tuple(TensorShape(f"t{number}", (size,)) for number, size in enumerate(sizes))


def key(index: int) -> bytes:
    return pool_key(SWARM, index)


def slow_signs(key: bytes, tensor: int, count: int) -> list[int]:
    """Block by block, bit by bit, as the docstring of directions.py says it."""
    found: list[int] = []
    for block in range(-(-count // 512)):
        nonce = block.to_bytes(4, "little") + tensor.to_bytes(12, "little")
        keystream = Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(64))
        found += [1 if byte >> bit & 1 else -1 for byte in keystream for bit in range(8)]
    return found[:count]


def slow_direction(key: bytes, layout: Layout) -> np.ndarray:
    """(n,) int64, of all tensors."""
    parts = (slow_signs(key, number, math.prod(tensor.shape)) for number, tensor in enumerate(layout))
    return np.array([sign for part in parts for sign in part], np.int64)


def slow_step(values: np.ndarray, layout: Layout, terms: list[tuple[bytes, np.float32]]) -> np.ndarray:
    """Whole vectors at once, one float32 addition after the other."""
    new = values.copy()
    for first in range(0, len(terms), 8):
        total = np.zeros(len(values), np.float32)
        for key, scale in terms[first : first + 8]:
            used = scale if abs(scale) >= TINY else np.float32(0)
            total = total + np.where(slow_direction(key, layout) > 0, used, -used)
        new = new + total
    return new


def start_values(count: int, seed: int = 0) -> np.ndarray:
    """Of all sizes down to TINY, some 0: what a state holds at first."""
    random = np.random.default_rng(seed)
    values = random.uniform(-1, 1, count).astype(np.float32)
    return flush_tiny(np.ldexp(values, random.integers(-82, 3, count).astype(np.int32)))


def test_keys_are_hashes_of_what_they_name() -> None:
    named = direction_key(SWARM, 7, 6, "member", 3)
    assert named.hex() == "3e34a650cf91d38d42b887e1da7084ac813a95dea38c124ee3a5a4272ad2dd75"
    assert named == blake3(b"shoal/direction/1\0" + encode((SWARM, 7, 6, "member", 3))).digest()
    assert key(5).hex() == "3e5d0d71a2f62dc27e4061361aaf18eb7da6f3692c628c348ac0595b87b8d7f8"
    assert key(5) == blake3(b"shoal/pool/1\0" + encode((SWARM, 5))).digest()


def test_each_part_of_a_name_makes_another_key() -> None:
    names = [
        (SWARM, 7, 6, "member", 3), (bytes(32), 7, 6, "member", 3), (SWARM, 8, 6, "member", 3),
        (SWARM, 7, 5, "member", 3), (SWARM, 7, 6, "other", 3), (SWARM, 7, 6, "member", 4),
    ]  # fmt: skip
    pool = [key(0), key(1), pool_key(bytes(32), 0)]
    assert len({*(direction_key(*name) for name in names), *pool}) == len(names) + len(pool)


def test_signs_are_the_bits_of_the_keystream_lowest_first() -> None:
    def packed(tensor: int, start: int) -> str:
        return np.packbits(signs(key(5), tensor, start, start + 128) > 0, bitorder="little").tobytes().hex()

    assert packed(0, 0) == "c14b18f1d3c8b4dcade068803d790139"
    assert packed(1, 0) == "228ec38db8fdc9dc70acb688ab7b3ef7"
    assert packed(12, 1024) == "49e2dc0c4124684e914d62a00fae789e"
    assert packed(0, 3)[:2] == f"{(0xC1 >> 3 | 0x4B << 5) & 255:02x}"


def test_the_keystream_is_that_of_the_standard() -> None:
    """RFC 8439, A.1, test vectors 1 and 2: key and nonce are zeros, blocks 0 and 1."""
    blocks = np.packbits(signs(bytes(32), 0, 0, 1024) > 0, bitorder="little").tobytes()
    assert blocks[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert blocks[64:80].hex() == "9f07e7be5551387a98ba977c732d080d"


@given(tensor=st.integers(0, 2**32), start=COUNTS, stop=COUNTS)
def test_any_part_of_a_direction_is_that_part_of_the_whole(tensor: int, start: int, stop: int) -> None:
    whole = slow_signs(key(1), tensor, max(start, stop))
    part = signs(key(1), tensor, start, stop)
    assert part.dtype == np.int8
    assert part.tolist() == whole[start:stop]


@given(start=COUNTS, count=COUNTS, scale=SCALES, in_place=st.booleans())
def test_perturbed_values_are_rounded_once(start: int, count: int, scale: np.float32, in_place: bool) -> None:
    values = start_values(count)
    before = values.copy()
    out = values if in_place else np.empty_like(values)
    perturbed(values, key(2), 3, scale, out, start)
    towards = np.array(slow_signs(key(2), 3, start + count)[start:]) > 0
    assert out.tobytes() == (before + np.where(towards, scale, -scale)).tobytes()
    assert in_place or values.tobytes() == before.tobytes()


@given(cuts=st.lists(st.integers(0, PIECE + 700), max_size=4))
def test_a_tensor_is_perturbed_in_any_pieces_to_the_same_bits(cuts: list[int]) -> None:
    values = start_values(PIECE + 700)
    whole, pieces = np.empty_like(values), np.empty_like(values)
    perturbed(values, key(2), 3, np.float32(1e-2), whole)
    for start, stop in pairwise(sorted([0, *cuts, len(values)])):
        perturbed(values[start:stop], key(2), 3, np.float32(1e-2), pieces[start:stop], start)
    assert pieces.tobytes() == whole.tobytes()


@given(layout=LAYOUTS, scales=st.lists(SCALES, max_size=2 * GROUP + 3), in_place=st.booleans())
def test_a_step_gives_the_bits_of_plain_additions(layout: Layout, scales: list[np.float32], in_place: bool) -> None:
    values = start_values(element_count(layout))
    terms = [(key(index), scale) for index, scale in enumerate(scales)]
    expected = slow_step(values, layout, terms)
    out = values if in_place else np.empty_like(values)
    step(values, layout, terms, out)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("sizes", [(PIECE,), (PIECE - 1, 9), (5, 2 * PIECE + 13), (PIECE - 8, 8, 1), (9, PIECE - 8)])
def test_a_step_over_more_than_a_piece_gives_the_bits_of_plain_additions(sizes: tuple[int, ...]) -> None:
    layout = layout_of(*sizes)
    values = start_values(element_count(layout))
    terms = [(key(index), np.float32(0.01 / (index + 1))) for index in range(GROUP + 3)]
    out = np.empty_like(values)
    step(values, layout, terms, out)
    assert out.tobytes() == slow_step(values, layout, terms).tobytes()


def test_the_shape_of_a_tensor_is_only_its_size() -> None:
    flat, shaped = layout_of(60, 1), (TensorShape("a", (3, 4, 5)), TensorShape("b", ()))
    outs = [np.empty(61, np.float32) for _ in range(2)]
    for layout, out in zip((flat, shaped), outs, strict=True):
        step(start_values(61), layout, [(key(0), np.float32(1))], out)
    assert outs[0].tobytes() == outs[1].tobytes()


def test_groups_are_of_eight_in_the_order_given() -> None:
    """Another order within a group, or another cut into groups, rounds differently."""
    layout = layout_of(2_000)
    values = start_values(2_000)
    terms = [(key(index), np.float32(0.1 * 1.3**index)) for index in range(16)]

    def stepped(*parts: list[tuple[bytes, np.float32]]) -> bytes:
        out = values.copy()
        for part in parts:
            step(out, layout, part, out)
        return out.tobytes()

    assert stepped(terms) == stepped(terms[:8], terms[8:])
    assert stepped(terms) != stepped(terms[:7], terms[7:])
    assert stepped(terms) != stepped(terms[::-1])


@given(
    scales=st.lists(SCALES, min_size=1, max_size=GROUP + 2),
    seed=st.integers(0, 2**32),
    near=st.lists(st.integers(-2, 2), min_size=4, max_size=4),
)
def test_nothing_denormal_comes_of_a_step(scales: list[np.float32], seed: int, near: list[int]) -> None:
    """Also where a value and what is added to it all but cancel."""
    layout = layout_of(600)
    values = start_values(600, seed)
    terms = [(key(index), scale) for index, scale in enumerate(scales)]
    added = slow_step(np.zeros(600, np.float32), layout, terms[:GROUP])
    for offset, ulps in enumerate(near):
        values[offset::5] = flush_tiny(-added[offset::5] * np.float32(1 + ulps * 2.0**-23))
    for _ in range(2):
        step(values, layout, terms, values)
        assert np.all((values == 0) | (np.abs(values) >= SMALLEST))


def test_a_scale_nearer_to_zero_than_tiny_counts_as_zero() -> None:
    layout, values = layout_of(100), np.full(100, TINY, np.float32)
    out = np.empty_like(values)
    step(values, layout, [(key(0), np.float32(TINY / 2)), (key(1), np.float32(-1e-40))], out)
    assert out.tobytes() == values.tobytes()


@given(layout=LAYOUTS, factors=st.lists(st.integers(-(2**40), 2**40), max_size=2 * GROUP + 3), data=st.data())
def test_sums_are_exact_in_any_order_and_can_be_undone(layout: Layout, factors: list[int], data: st.DataObject) -> None:
    terms = [(key(index), factor) for index, factor in enumerate(factors)]
    start = np.arange(element_count(layout), dtype=np.int64) - 5
    sums, shuffled = start.copy(), start.copy()
    add_sums(sums, layout, terms)
    directions = [factor * slow_direction(key, layout) for key, factor in terms]
    assert sums.tolist() == sum(directions, start).tolist()
    add_sums(shuffled, layout, data.draw(st.permutations(terms)))
    assert shuffled.tolist() == sums.tolist()
    add_sums(sums, layout, [(key, -factor) for key, factor in terms])
    assert sums.tolist() == start.tolist()


def test_many_terms_add_up_to_all_that_int64_holds() -> None:
    layout = layout_of(70)
    sums = np.zeros(70, np.int64)
    add_sums(sums, layout, [(key(0), 2**62), (key(0), 2**62 - 1)])
    assert np.abs(sums).tolist() == [2**63 - 1] * 70


def test_values_of_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="10 values become 10, of a layout of 9"):
        step(np.zeros(10, np.float32), layout_of(4, 5), [], np.zeros(10, np.float32))
    with pytest.raises(ValueError, match="8 values become 8, of a layout of 9"):
        add_sums(np.zeros(8, np.int64), layout_of(4, 5), [])


@pytest.mark.parametrize("sizes", [(3_000_000,), (1_000_000,) * 3, (600,) * 5_000])
def test_memory_does_not_grow_with_the_vector_nor_with_the_terms(sizes: tuple[int, ...]) -> None:
    layout = layout_of(*sizes)
    values, sums = np.zeros(3_000_000, np.float32), np.zeros(3_000_000, np.int64)
    offsets = [*accumulate(sizes, initial=0)]
    tracemalloc.start()
    try:
        step(values, layout, [(key(index), np.float32(1)) for index in range(20)], values)
        add_sums(sums, layout, [(key(index), 1) for index in range(20)])
        for tensor, (start, stop) in enumerate(pairwise(offsets)):
            perturbed(values[start:stop], key(0), tensor, np.float32(1), values[start:stop])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20
