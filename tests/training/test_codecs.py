"""Codecs keep their error bounds, decode any bytes, and decode the same bits in any pieces."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.training.codecs import BLOCK, CODECS, PIECE, TINY, Codec, flush_tiny, spans
from shoal.training.payload import VALUE_MAX
from shoal.training.ports import BytesReader

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 3 * BLOCK + 7),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=True),
    fill=st.just(np.float32(0)),
)
ALL = pytest.mark.parametrize("name", sorted(CODECS))


def decoded(codec: Codec, reader: BytesReader, count: int, span: tuple[int, int] | None = None) -> np.ndarray:
    """All `count` values of a body that `reader` ends with, or some."""
    start, stop = span or (0, count)
    return codec.decode(reader, reader.size - codec.body_bytes(count), count, start, np.empty(stop - start, np.float32))


def there_and_back(codec: Codec, values: np.ndarray) -> np.ndarray:
    body = b"".join(codec.encode(values))
    assert len(body) == codec.body_bytes(len(values))
    return decoded(codec, BytesReader(body), len(values))


@given(values=VALUES)
def test_float32_is_exact_but_for_values_below_tiny(values: np.ndarray) -> None:
    got = there_and_back(CODECS["float32"], values)
    assert np.array_equal(got, np.where(np.abs(values) < TINY, 0, values))


@given(values=VALUES)
def test_bfloat16_is_within_one_part_in_256(values: np.ndarray) -> None:
    got = there_and_back(CODECS["bfloat16"], values).astype(np.float64)
    exact = values.astype(np.float64)
    assert np.all(np.abs(got - exact) <= np.maximum(np.abs(exact) / 256, np.where(np.abs(exact) < TINY, TINY, 0)))


@given(values=VALUES)
def test_int8_is_within_half_a_step_of_its_block(values: np.ndarray) -> None:
    got = there_and_back(CODECS["int8"], values).astype(np.float64)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].astype(np.float64)
        bound = max(np.abs(block).max() * (1 / 254 + 2.0**-21), 2.0**-72)
        assert np.all(np.abs(got[start : start + BLOCK] - block) <= bound)


@ALL
@given(data=st.data())
def test_pieces_decode_to_the_bits_of_the_whole(name: str, data: st.DataObject) -> None:
    codec, values = CODECS[name], data.draw(VALUES)
    prefix = data.draw(st.binary(max_size=9))
    body = b"".join(codec.encode(values))
    reader = BytesReader(prefix + body)
    whole = decoded(codec, reader, len(values))
    cuts = [*range(0, len(values), BLOCK), len(values)]
    pieces = [decoded(codec, reader, len(values), span) for span in pairwise(cuts)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@ALL
@given(data=st.data())
def test_any_bytes_of_the_right_length_decode_without_denormals(name: str, data: st.DataObject) -> None:
    codec, count = CODECS[name], data.draw(st.integers(1, 2 * BLOCK + 3))
    body = data.draw(st.binary(min_size=codec.body_bytes(count), max_size=codec.body_bytes(count)))
    got = decoded(codec, BytesReader(body), count)
    assert got.dtype == np.float32
    assert len(got) == count
    finite = np.abs(got[np.isfinite(got)])
    assert np.all((finite == 0) | (finite >= TINY))


@ALL
def test_decoded_values_are_the_callers_own(name: str) -> None:
    values = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    body = b"".join(CODECS[name].encode(values))
    first = decoded(CODECS[name], BytesReader(body), BLOCK)
    first += 1
    assert not np.array_equal(first, decoded(CODECS[name], BytesReader(body), BLOCK))


@given(values=VALUES)
def test_bfloat16_decodes_as_torch_reads_it(values: np.ndarray) -> None:
    body = b"".join(CODECS["bfloat16"].encode(values))
    theirs = torch.frombuffer(bytearray(body), dtype=torch.bfloat16)
    assert torch.equal(theirs, torch.as_tensor(values.copy()).bfloat16())


@ALL
@given(data=st.data())
def test_the_peak_is_what_no_decoded_value_exceeds(name: str, data: st.DataObject) -> None:
    codec, count = CODECS[name], data.draw(st.integers(1, 2 * BLOCK + 5))
    size = codec.body_bytes(count)
    body = BytesReader(data.draw(st.binary(min_size=size, max_size=size)))
    values = decoded(codec, body, count)
    peak = codec.peak(body, 0, count)
    most = peak * (128 / 127 * (1 + 2**-23) if name == "int8" else 1)  # the peak, 127 scales, was rounded
    # What reaches further is refused, and may overflow: 128 scales where 127 do not.
    assert not peak <= VALUE_MAX or bool(np.all(np.abs(values) <= most))


@ALL
@given(values=VALUES)
def test_the_peak_of_what_was_encoded_is_its_largest_value(name: str, values: np.ndarray) -> None:
    codec = CODECS[name]
    body = BytesReader(b"".join(codec.encode(values)))
    largest = np.abs(decoded(codec, body, len(values))).max()
    assert codec.peak(body, 0, len(values)) == largest


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE + 6])
@pytest.mark.parametrize("value", [1e9, -1e9, np.inf, -np.inf, np.nan, -np.nan, 2.0**20, -(2.0**-149), 0.0])
def test_the_peak_is_that_of_all_values_wherever_it_is(name: str, at: int, value: float) -> None:
    values = np.full(2 * PIECE + 7, -0.5, np.float32)
    values[at] = value
    bits = values.view(np.uint32)
    body = bits.astype("<u4").tobytes() if name == "float32" else (bits >> 16).astype("<u2").tobytes()
    peak = CODECS[name].peak(BytesReader(body), 0, len(values))
    kept = np.abs(decoded(CODECS[name], BytesReader(body), len(values)))
    assert peak == kept.max() or (np.isnan(peak) and np.isnan(value))


def test_a_body_of_what_is_tiny_alone_has_no_peak() -> None:
    body = BytesReader(np.full(7, -(2.0**-81), "<f4").tobytes())
    assert CODECS["float32"].peak(body, 0, 7) == 0


@given(values=hnp.arrays(np.uint32, st.integers(0, 40)))
def test_flushing_clears_what_is_tiny_and_nothing_else(values: np.ndarray) -> None:
    before = values.view(np.float32)
    with np.errstate(invalid="ignore"):
        expected = np.where(np.abs(before) < TINY, np.float32(0), before)
    assert flush_tiny(before.copy()).tobytes() == expected.tobytes()


def test_spans_cover_every_value_once() -> None:
    assert [stop - start for start, stop in spans(2 * PIECE + 3)] == [PIECE, PIECE, 3]
    assert list(spans(0)) == []


def test_flushing_keeps_nan_for_the_check_to_find() -> None:
    values = np.array([np.nan, 1e-30, -1e-30, 1e-20, np.inf, -0.0], np.float32)
    flushed = flush_tiny(values)
    assert np.isnan(flushed[0])
    assert flushed[1:].tolist() == [0, 0, np.float32(1e-20), np.inf, 0]
