"""Payloads: what was written is read, and everything else is refused with a reason."""

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.codecs import CODECS
from shoal.training.payload import (
    VALUE_MAX,
    Delta,
    check_values,
    open_payload,
    payload_bytes,
    write_payload,
)
from shoal.training.ports import BytesReader
from shoal.training.tensors import TensorShape
from shoal.transport.wire import Malformed

LAYOUT = (TensorShape("a", (20, 30)),)
CODEC_NAMES = sorted(CODECS)


def written(codec: str, values: np.ndarray | None = None) -> bytes:
    delta = np.linspace(-1, 1, 600, dtype=np.float32) if values is None else values.astype(np.float32)
    return b"".join(write_payload(codec, LAYOUT, delta))


def opened(data: bytes, codec: str) -> Delta | Malformed:
    return open_payload(BytesReader(data), codec, LAYOUT)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_payload_is_read_as_it_was_written(codec: str) -> None:
    data = written(codec)
    assert len(data) == payload_bytes(codec, LAYOUT)
    delta = opened(data, codec)
    assert isinstance(delta, Delta)
    assert check_values(delta) is None
    assert np.abs(delta.values(0, 600) - np.linspace(-1, 1, 600)).max() < 0.005


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, VALUE_MAX * 1.5, -VALUE_MAX * 1.5])
@pytest.mark.parametrize("at", [0, 255, 599])
def test_a_value_out_of_bounds_anywhere_is_refused(bad: float, at: int) -> None:
    values = np.zeros(600, np.float32)
    values[at] = bad
    delta = opened(written("float32", values), "float32")
    assert isinstance(delta, Delta)
    assert isinstance(check_values(delta), Malformed)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e30])
def test_an_int8_scale_out_of_bounds_is_refused(scale: float) -> None:
    data = bytearray(written("int8"))
    start = payload_bytes("int8", LAYOUT) - CODECS["int8"].body_bytes(600)
    data[start : start + 4] = np.float32(scale).tobytes()
    delta = opened(bytes(data), "int8")
    assert isinstance(delta, Delta)
    assert isinstance(check_values(delta), Malformed)


def test_each_way_to_be_wrong_has_its_reason() -> None:
    data = written("int8")
    reasons = {
        "too few": data[:5],
        "does not begin": b"x" + data[1:],
        "claims a header": data[:8] + b"\xff\xff\xff\xff" + data[12:],
        "expected": data + b"\0",
        "codec 'float32'": written("float32"),
        "other tensors": b"".join(write_payload("int8", (TensorShape("b", (20, 30)),), np.zeros(600, np.float32))),
    }
    for reason, wrong in reasons.items():
        result = opened(wrong, "int8")
        assert isinstance(result, Malformed)
        assert reason in result.reason


def test_a_newer_payload_says_so() -> None:
    data = bytearray(written("int8"))
    assert data[13] == 1  # the first field of the header's array: its version
    data[13] = 2
    result = opened(bytes(data), "int8")
    assert isinstance(result, Malformed)
    assert "needs a newer Shoal" in result.reason


@pytest.mark.parametrize("codec", CODEC_NAMES)
@given(st.data())
def test_any_bytes_are_a_payload_or_a_reason(codec: str, data: st.DataObject) -> None:
    good = written(codec)
    noise = data.draw(st.binary(max_size=200))
    at = data.draw(st.integers(0, len(good)))
    for candidate in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        delta = opened(candidate, codec)
        if isinstance(delta, Delta) and check_values(delta) is None:
            values = delta.values(0, 600)
            assert np.all(np.isfinite(values))


def test_the_bytes_are_those_that_the_protocol_describes() -> None:
    data = b"".join(write_payload("int8", (TensorShape("w", (3,)),), np.array([1, -0.5, 0.25], np.float32)))
    layout = blake3(b"shoal/layout/1\0" + bytes.fromhex("91 92 a1 77 91 03")).digest()
    header = bytes.fromhex("93 01 a4 69 6e 74 38 c4 20") + layout
    assert data == b"shoal/dl\x29\0\0\0" + header + bytes(11) + bytes.fromhex("04 02 01 3c 7f c0 20")
