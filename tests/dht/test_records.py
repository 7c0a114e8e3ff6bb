"""What may stand under a key: signed by its writer, of now, and the newest wins everywhere."""

import itertools

import msgspec
import pytest

from shoal.dht.keys import listing_key, note_key
from shoal.dht.records import (
    BODY_BYTES_MAX,
    CLOCK_SKEW_S,
    LIFETIME_S,
    LIFETIME_S_MAX,
    RECORD_BYTES_MAX,
    Record,
    open_record,
    sign_record,
    signed_bytes,
)
from shoal.transport.wire import Malformed, encode
from tests.dht.peers import EPOCH_S, identity

ME, OTHER = identity(1), identity(2)
KEY = listing_key(ME.peer_id)
RECORD = sign_record(ME, KEY, 5, EPOCH_S, b"body")


def signed(**changes: object) -> Record:
    """A record that its writer signed with these fields."""
    record = msgspec.structs.replace(RECORD, **changes)
    return msgspec.structs.replace(record, signature=ME.sign(signed_bytes(record)))


def problem(record: Record, unix_s: float = EPOCH_S) -> str:
    opened = open_record(KEY.data, encode(record), unix_s)
    assert isinstance(opened, Malformed)
    return opened.reason


def test_a_record_is_opened_under_its_key_until_it_expires() -> None:
    assert open_record(KEY.data, encode(RECORD), EPOCH_S) == RECORD
    assert open_record(KEY.data, encode(RECORD), EPOCH_S + LIFETIME_S - 1) == RECORD
    assert "expired" in problem(RECORD, EPOCH_S + LIFETIME_S)


def test_under_a_key_nobody_writes_but_the_peer_at_its_end() -> None:
    key = listing_key(OTHER.peer_id).data
    stolen = signed(key=key)
    assert isinstance(open_record(key, encode(stolen), EPOCH_S), Malformed)
    with pytest.raises(AssertionError):
        sign_record(ME, listing_key(OTHER.peer_id), 1, EPOCH_S, b"")


def test_a_record_moved_to_another_key_or_changed_in_any_field_is_refused() -> None:
    other = note_key("other", ME.peer_id)
    assert not isinstance(other, Malformed)
    assert isinstance(open_record(other.data, encode(RECORD), EPOCH_S), Malformed)
    changes: list[dict[str, object]] = [
        {"sequence": 6}, {"issued_at": EPOCH_S + 1}, {"expires_at": RECORD.expires_at + 1}, {"body": b"x"},
        {"signature": bytes(64)}, {"key": other.data},
    ]  # fmt: skip
    for change in changes:
        changed = msgspec.structs.replace(RECORD, **change)
        assert isinstance(open_record(changed.key, encode(changed), EPOCH_S), Malformed), change


def test_a_key_in_no_namespace_of_ours_holds_no_record_however_well_it_is_signed() -> None:
    for key in (b"/other/x", f"/shoal/unknown/{ME.peer_id}".encode(), b"x"):
        assert isinstance(open_record(key, encode(signed(key=key)), EPOCH_S), Malformed)


def test_no_record_lives_for_too_long_or_comes_from_the_future() -> None:
    longest = signed(expires_at=EPOCH_S + LIFETIME_S_MAX)
    assert open_record(KEY.data, encode(longest), EPOCH_S) == longest
    assert "allowed" in problem(signed(expires_at=EPOCH_S + LIFETIME_S_MAX + 1))
    assert "allowed" in problem(signed(issued_at=EPOCH_S + 600, expires_at=EPOCH_S + 500))
    early = signed(issued_at=EPOCH_S + CLOCK_SKEW_S, expires_at=EPOCH_S + LIFETIME_S)
    assert open_record(KEY.data, encode(early), EPOCH_S) == early
    late = signed(issued_at=EPOCH_S + CLOCK_SKEW_S + 1, expires_at=EPOCH_S + LIFETIME_S)
    assert "clock" in problem(late)


def test_a_record_has_one_encoding_only() -> None:
    data = encode(RECORD)
    assert data[1] == RECORD.version  # as one byte; 0xcc and the byte would say the same
    assert isinstance(open_record(KEY.data, data[:1] + b"\xcc" + data[1:], EPOCH_S), Malformed)


def test_the_longest_body_fits_and_a_longer_one_is_refused_unread() -> None:
    full = sign_record(ME, KEY, 1, EPOCH_S, bytes(BODY_BYTES_MAX))
    assert open_record(KEY.data, encode(full), EPOCH_S) == full
    assert isinstance(open_record(KEY.data, bytes(RECORD_BYTES_MAX + 1), EPOCH_S), Malformed)
    with pytest.raises(AssertionError):
        sign_record(ME, KEY, 1, EPOCH_S, bytes(BODY_BYTES_MAX + 1))


def test_the_newest_wins_in_whatever_order_records_come() -> None:
    records = [sign_record(ME, KEY, sequence, EPOCH_S, body) for sequence in (1, 2) for body in (b"a", b"b", b"c")]
    winners = {max(order, key=lambda record: record.rank) for order in itertools.permutations(records)}
    assert len(winners) == 1
    assert winners.pop().sequence == 2


def test_no_signature_is_checked_of_what_is_refused_for_less() -> None:
    def never(*_: object) -> bool:
        raise AssertionError("a signature was checked")

    assert isinstance(open_record(KEY.data, encode(RECORD), EPOCH_S + LIFETIME_S, never), Malformed)
    assert isinstance(open_record(b"/other", encode(RECORD), EPOCH_S, never), Malformed)
