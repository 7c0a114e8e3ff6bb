"""What a member keeps on disk is whole or absent, and its blobs' labels are let go of in time."""

from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.pins import Pins
from shoal.training.ports import BlobReader, Payload
from shoal.training.records import CONTRIBUTION_BYTES_MAX, Head
from shoal.training.store import FILE_VERSION, TURNS_MAX, MemberStore, StoredHead, StoredSequence, StoredTurns
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal
from shoal.transport.wire import Malformed, decode

HEAD = StoredHead(FILE_VERSION, Head(3, bytes(32), bytes(32)), BlobRef(bytes(32), 7), None)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = MemberStore(tmp_path / "deep" / "down")
    assert store.load_head() is None
    assert store.load_turns() is None
    store.save_head(HEAD)
    store.save_turns((b"one", b"another"))
    again = MemberStore(tmp_path / "deep" / "down")
    assert again.load_head() == HEAD
    assert again.load_turns() == StoredTurns(FILE_VERSION, (b"one", b"another"))


def test_so_many_of_the_newest_turns_are_kept_as_a_record_may_still_take(tmp_path: Path) -> None:
    store = MemberStore(tmp_path)
    turns = tuple(round.to_bytes(2, "big") * (CONTRIBUTION_BYTES_MAX // 2) for round in range(TURNS_MAX + 5))
    store.save_turns(turns)
    assert store.load_turns() == StoredTurns(FILE_VERSION, turns[5:])


def test_sequences_never_repeat_across_starts(tmp_path: Path) -> None:
    assert [MemberStore(tmp_path).next_sequence() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_half_written_draft_changes_nothing(tmp_path: Path) -> None:
    store = MemberStore(tmp_path)
    store.save_head(HEAD)
    for draft in [path for path in tmp_path.iterdir() if path.name != "head"]:
        draft.unlink()
    (tmp_path / "head.new").write_bytes(b"\x95\x01")
    assert store.load_head() == HEAD


def test_damaged_or_newer_files_are_a_value_not_a_crash(tmp_path: Path) -> None:
    store = MemberStore(tmp_path)
    for garbage in (b"", b"\xc1", b"\x95\x02", bytes(1000)):
        (tmp_path / "head").write_bytes(garbage)
        assert isinstance(store.load_head(), Malformed)
    (tmp_path / "turns").mkdir()
    assert isinstance(store.load_turns(), Malformed)


Stored = StoredHead | StoredTurns | StoredSequence


@given(st.sampled_from([StoredHead, StoredTurns, StoredSequence]), st.binary(max_size=200))
def test_any_bytes_in_a_file_decode_or_are_refused(type_: type[Stored], data: bytes) -> None:
    assert isinstance(decode(data, type_, 1000), type_ | Malformed)


class Labels:
    """Blobs that only know what was let go of."""

    def __init__(self) -> None:
        self.gone: list[str] = []

    def unpin(self, pin: str) -> None:
        self.gone.append(pin)

    async def put(self, pieces: Iterable[Payload], *, pin: str) -> BlobRef | Refusal:
        raise NotImplementedError

    async def fetch(
        self,
        ref: BlobRef,
        holders: Callable[[], Iterable[PeerId]],
        *,
        pin: str,
        timeout_s: float,
        like: BlobRef | None = None,
        bytes_per_s_min: float = 0.0,
    ) -> Refusal | None:
        raise NotImplementedError

    def open(self, ref: BlobRef) -> BlobReader | None:
        raise NotImplementedError


def rounds_of(labels: list[str]) -> list[int]:
    return [int(label.rpartition("/")[2]) for label in labels]


def test_the_newest_rounds_keep_their_blobs_and_the_next_ones_too() -> None:
    blobs = Labels()
    pins = Pins(bytes(32), blobs)
    for round in range(1, 8):
        assert pins.label("round", round).endswith(f"/round/{round}")
    pins.keep_newest("round", 6, 4)
    assert rounds_of(blobs.gone) == [1, 2]


def test_another_branch_lets_go_of_what_lies_ahead() -> None:
    blobs = Labels()
    pins = Pins(bytes(32), blobs)
    for round in (2, 3, 9):
        pins.label("state", round)
    pins.keep_newest("state", 3, 2)
    assert rounds_of(blobs.gone) == [9]


def test_what_an_earlier_run_left_is_let_go_of_too() -> None:
    blobs = Labels()
    pins = Pins(bytes(32), blobs)
    pins.remember_until(20)
    pins.keep_newest("state", 20, 2)
    assert rounds_of(blobs.gone) == list(range(4, 19))
