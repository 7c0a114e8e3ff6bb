"""STUN messages: those of the standard's own examples, our own, and any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.addresses import ip_endpoint
from shoal.transport.stun import (
    FIRST_BYTE,
    HEAD_BYTES,
    ID_BYTES,
    Head,
    Kind,
    decode_head,
    decode_seen,
    encode_message,
)
from shoal.transport.wire import Malformed

ids = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)


@pytest.mark.parametrize(
    ("value", "host"),
    [  # RFC 5769, sections 2.2 and 2.3
        ("0001a147e112a643", "192.0.2.1"),
        ("0002a1470113a9faa5d3f179bc25f4b5bed2b9d9", "2001:db8:1234:5678:11:2233:4455:6677"),
    ],
)
def test_the_standards_examples_are_read(value: str, host: str) -> None:
    id = bytes.fromhex("b7e7a701bc34d686fa87dfae")
    data = bytes.fromhex(value)
    body = bytes.fromhex("8022000b") + b"test vector " + bytes([0, 0x20, 0, len(data)]) + data
    assert decode_seen(id, body) == ip_endpoint(host, 32853)


@given(ids, st.ip_addresses(), st.integers(0, 65535))
def test_what_is_written_is_read(id: bytes, ip: object, port: int) -> None:
    seen = ip_endpoint(str(ip), port)
    data = encode_message(Kind.SUCCESS, id, seen)
    head = decode_head(data[:HEAD_BYTES])
    assert head == Head(Kind.SUCCESS, len(data) - HEAD_BYTES, id)
    assert decode_seen(id, data[HEAD_BYTES:]) == seen
    assert encode_message(Kind.REQUEST, id)[0] == encode_message(Kind.INDICATION, id)[0] == FIRST_BYTE


@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES), ids, st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(head: bytes, id: bytes, body: bytes) -> None:
    decode_head(head)
    decode_seen(id, body)


@pytest.mark.parametrize(
    "data",
    [
        b"\x13/multistream/1.0.0\n",
        encode_message(Kind.REQUEST, bytes(12))[:4] + bytes(16),
        b"\x00\x03" + encode_message(Kind.REQUEST, bytes(12))[2:],
        b"\x00\x01\xff\xfc" + encode_message(Kind.REQUEST, bytes(12))[4:],
    ],
)
def test_what_is_not_ours_is_refused(data: bytes) -> None:
    assert isinstance(decode_head(data[:HEAD_BYTES].ljust(HEAD_BYTES)), Malformed)
