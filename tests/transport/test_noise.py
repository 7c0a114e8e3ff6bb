"""Noise's transport messages: whatever way they are cut on the wire, what was sealed comes out, in order."""

import struct

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.noise import PLAINTEXT_BYTES_MAX, Buffer, NoiseMessages


class Counting:
    """The cipher of a Noise session: ChaCha20-Poly1305 under a nonce that counts."""

    def __init__(self) -> None:
        self._cipher = ChaCha20Poly1305(bytes(32))
        self._sealed = self._opened = 0

    def encrypt(self, data: Buffer) -> bytes:
        self._sealed += 1
        return self._cipher.encrypt(struct.pack("<IQ", 0, self._sealed - 1), data, None)

    def decrypt(self, data: Buffer) -> bytes:
        self._opened += 1
        return self._cipher.decrypt(struct.pack("<IQ", 0, self._opened - 1), data, None)


def messages() -> NoiseMessages:
    cipher = Counting()
    return NoiseMessages(cipher.encrypt, cipher.decrypt)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, over and over."""
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 700), min_size=1))
def test_what_is_sealed_comes_out_however_the_wire_is_cut(plaintexts: list[bytes], sizes: list[int]) -> None:
    one, other = messages(), messages()
    opened = [plaintext for piece in cut(one.seal(plaintexts), sizes) for plaintext in other.open(piece)]
    assert opened == [plaintext for plaintext in plaintexts if plaintext]


@pytest.mark.parametrize("size", [1000, 65_535, 65_537, 200_000, 10**6])
def test_the_longest_messages_come_out_in_pieces_of_any_size(size: int) -> None:
    one, other = messages(), messages()
    plaintexts = [bytes([number]) * PLAINTEXT_BYTES_MAX for number in range(5)]
    wire = one.seal(plaintexts)
    assert len(wire) == 5 * (2 + 65_535)
    assert [plaintext for piece in cut(wire, [size]) for plaintext in other.open(piece)] == plaintexts


def test_a_byte_that_was_changed_raises_and_does_not_come_out() -> None:
    one, other = messages(), messages()
    wire = bytearray(one.seal([b"first", b"second"]))
    wire[-1] ^= 1
    with pytest.raises(InvalidTag):
        other.open(bytes(wire))


@given(st.lists(st.binary(max_size=70)))
def test_bytes_that_were_never_sealed_open_to_nothing(pieces: list[bytes]) -> None:
    one = messages()
    try:
        opened = [plaintext for piece in pieces for plaintext in one.open(piece)]
    except InvalidTag:
        return
    assert opened == []
