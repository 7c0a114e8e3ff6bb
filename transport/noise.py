"""Noise's transport messages in a byte stream (The Noise Protocol Framework, rev. 34, section 3; libp2p's noise spec):
each is its length in 2 bytes, big-endian, and so many bytes of ciphertext.

The handshake is libp2p's; this takes over after it. libp2p's own reader awaits the length and the body of every message
by themselves and its writer each message: with one read and one write for as many messages as there are, a megabyte
costs a third less time.

What a malicious peer may send: any bytes. What it achieves: at most one message is held until the rest of it comes, and
whatever was not sealed under the session's key raises what the cipher raises, and ends the connection.
"""

from collections.abc import Callable, Iterable
from typing import Final

LENGTH_BYTES: Final = 2
TAG_BYTES: Final = 16
PLAINTEXT_BYTES_MAX: Final = 2**16 - 1 - TAG_BYTES

Buffer = bytes | memoryview


class NoiseMessages:
    """Both directions of one connection.

    Args:
        encrypt: seals a message, each under the next nonce.
        decrypt: opens one. Raises for what was not sealed so.
    """

    def __init__(self, encrypt: Callable[[Buffer], bytes], decrypt: Callable[[Buffer], bytes]) -> None:
        self._encrypt = encrypt
        self._decrypt = decrypt
        self._rest = bytearray()  # of a message that is not whole yet, its length included

    def seal(self, plaintexts: Iterable[bytes]) -> bytes:
        """A message for each of `plaintexts`, of at most PLAINTEXT_BYTES_MAX."""
        parts: list[bytes] = []
        for plaintext in plaintexts:
            sealed = self._encrypt(plaintext)
            parts += (len(sealed).to_bytes(LENGTH_BYTES, "big"), sealed)
        return b"".join(parts)

    def open(self, data: bytes) -> list[bytes]:
        """What the messages carry that are whole now; empty ones carry nothing."""
        view = memoryview(data)
        opened: list[bytes] = []
        while self._rest and len(view):  # first what is here in part, and only that is copied
            missing = self._missing()
            self._rest += view[:missing]
            view = view[missing:]
            if not self._missing():
                whole, self._rest = self._rest, bytearray()
                opened.append(self._decrypt(memoryview(whole)[LENGTH_BYTES:]))
        while len(view) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(view[:LENGTH_BYTES], "big")
            if len(view) < end:
                break
            opened.append(self._decrypt(view[LENGTH_BYTES:end]))
            view = view[end:]
        self._rest += view
        return [plaintext for plaintext in opened if plaintext]

    def _missing(self) -> int:
        """Bytes of which one knows by now that the message still needs them."""
        if len(self._rest) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._rest)
        return LENGTH_BYTES + int.from_bytes(self._rest[:LENGTH_BYTES], "big") - len(self._rest)
