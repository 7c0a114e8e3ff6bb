"""What stands under a record key: signed by the key's writer, with a sequence number and an expiry.

Of several valid records under one key the newest wins: the larger sequence, and of two with the same sequence, which
only their writer can make, the one with the smaller hash, everywhere. Times are Unix seconds by the writer's clock and
are believed only within bounds by the reader's.

What a malicious peer may send: any bytes under any key. What it cannot do: write under a key that does not end in its
id (the signature covers key and value), keep a record alive for more than LIFETIME_S_MAX, post-date one by more than
CLOCK_SKEW_S, or make two different encodings of one record (only the canonical one is read). What it can do is show an
old record that has not expired; a reader that asks several holders takes the newest. Checks go from cheap to dear:
length, structure, key, times, signature (0.06 ms).
"""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.envelope import Signature, Signer
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import U64, Malformed, Message, decode, encode

from .keys import KEY_BYTES_MAX, RecordKey, parse_key

RECORD_VERSION: Final = 1
BODY_BYTES_MAX: Final = 16_384
RECORD_BYTES_MAX: Final = BODY_BYTES_MAX + KEY_BYTES_MAX + 128
LIFETIME_S: Final = 36 * 3600  # that a writer gives its records: it renews them after 12 to 22 hours
LIFETIME_S_MAX: Final = 48 * 3600
CLOCK_SKEW_S: Final = 600  # of clocks that nobody keeps; wider: expiry means less
_TAG: Final = b"shoal/dht/record/1\x00"

Verify = Callable[[PeerId, bytes, bytes], bool]


class Record(Message, frozen=True):
    """A signed record. Obtained from `sign_record` or `open_record`, it is sound."""

    version: Annotated[int, msgspec.Meta(ge=RECORD_VERSION, le=RECORD_VERSION)]
    key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=KEY_BYTES_MAX)]  # its last part is the signer
    sequence: U64
    issued_at: U64  # Unix seconds
    expires_at: U64
    body: Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)]
    signature: Signature

    @property
    def rank(self) -> tuple[int, int]:
        """The greatest of several records under one key counts."""
        return self.sequence, -int.from_bytes(blake3(encode(self)).digest(), "big")


def sign_record(signer: Signer, key: RecordKey, sequence: int, issued_at: int, body: bytes) -> Record:
    """The record of `body` under `key`, whose writer `signer` is, until LIFETIME_S after `issued_at`.

    Args:
        sequence: greater than that of every record the signer ever put there; the clock in milliseconds will do.
    """
    assert key.writer == signer.peer_id, f"{signer.peer_id} may not write under {key.data!r}"
    assert len(body) <= BODY_BYTES_MAX, f"a body of {len(body)} bytes; {BODY_BYTES_MAX} are allowed"
    unsigned = Record(RECORD_VERSION, key.data, sequence, issued_at, issued_at + LIFETIME_S, body, bytes(64))
    return msgspec.structs.replace(unsigned, signature=signer.sign(signed_bytes(unsigned)))


def open_record(key: bytes, value: bytes, unix_s: float, is_signed: Verify = verify) -> Record | Malformed:
    """The record that `value`, found under `key`, holds, if it may stand there now; or why not."""
    record = decode(value, Record, RECORD_BYTES_MAX)
    if isinstance(record, Malformed):
        return record
    if record.key != key:
        return Malformed("a record that belongs under another key")
    parsed = parse_key(key)
    if isinstance(parsed, Malformed):
        return parsed
    if encode(record) != value:
        return Malformed("a record in another than its canonical encoding")
    problem = _time_problem(record, unix_s)
    if problem is not None:
        return Malformed(problem)
    if not is_signed(parsed.writer, signed_bytes(record), record.signature):
        return Malformed(f"a record under {key!r} without its writer's signature")
    return record


def _time_problem(record: Record, unix_s: float) -> str | None:
    """Why the times of a record cannot be believed."""
    if record.expires_at <= unix_s:
        return f"a record that expired {unix_s - record.expires_at:.0f} s ago"
    if record.issued_at > unix_s + CLOCK_SKEW_S:
        return f"a record issued {record.issued_at - unix_s:.0f} s in the future: one of the two clocks is wrong"
    if not 0 < record.expires_at - record.issued_at <= LIFETIME_S_MAX:
        return f"a record that is to live {record.expires_at - record.issued_at} s; {LIFETIME_S_MAX} are allowed"
    return None


def signed_bytes(record: Record) -> bytes:
    """What the writer signs: all of the record but the signature, behind a tag that nothing else begins with."""
    return _TAG + encode((record.key, record.sequence, record.issued_at, record.expires_at, record.body))
