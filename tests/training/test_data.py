"""Shards are disjoint and move little; the validation split is nobody's; batches can be drawn again."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training import data

MEMBERS = st.lists(st.text("abcdefgh", min_size=3, max_size=8), min_size=1, max_size=12, unique=True).map(sorted)


def loaded(name: str = "shakespeare", own_path: Path | None = None, batch_bytes: int = 1000) -> data.Corpus:
    corpus = data.load(name, 64, batch_bytes, own_path)
    assert isinstance(corpus, data.Corpus)
    return corpus


def test_shakespeare_is_inside_the_package_and_whole() -> None:
    corpus = loaded()
    assert len(corpus.training) + len(corpus.validation) == 4_956_466
    assert len(corpus.validation) == 4_956_466 * 5 // 100
    assert b"our nuptial hour" in corpus.training[:1000].tobytes()
    assert corpus.own is None


@given(MEMBERS, st.integers(1, 80))
def test_all_pieces_are_owned_and_only_the_idle_share_one(members: list[str], pieces: int) -> None:
    owned = [data.own_pieces(pieces, member, members) for member in members]
    assert {piece for own in owned for piece in own} == set(range(pieces))
    assert all(own for own in owned)
    shared = sum(len(own) for own in owned) - pieces
    assert shared <= sum(len(own) == 1 for own in owned)  # whoever has more than one piece shares none of them


@given(MEMBERS, st.text("xyz", min_size=3, max_size=8))
def test_a_newcomer_takes_pieces_and_moves_none_among_the_others(members: list[str], newcomer: str) -> None:
    wider = sorted([*members, newcomer])
    for member in members:
        before, after = set(data.own_pieces(64, member, members)), set(data.own_pieces(64, member, wider))
        assert after <= before or len(after) == 1


def test_a_shard_is_a_members_pieces_and_never_the_validation_split() -> None:
    corpus = loaded()
    members = ("a", "b", "c", "d")
    shards = [data.shard(corpus, member, members) for member in members]
    assert sum(len(texts) for texts in shards) == 64
    assert min(len(texts) for texts in shards) >= 8
    for texts in shards:
        for text in texts:
            assert np.shares_memory(text, corpus.training)
            assert len(text) == len(corpus.training) // 64


def test_a_members_own_file_replaces_its_shard_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"my own words. " * 1000)
    corpus = loaded(own_path=path)
    (text,) = data.shard(corpus, "a", ("a", "b"))
    assert text.tobytes() == path.read_bytes()
    assert np.array_equal(corpus.validation, loaded().validation)


def test_a_file_can_be_a_swarms_data_by_its_hash(tmp_path: Path) -> None:
    path, other = tmp_path / "ours.txt", tmp_path / "other.txt"
    path.write_bytes(bytes(range(256)) * 400)
    other.write_bytes(b"x" * 102_400)
    name = data.file_name(path)
    assert name is not None
    corpus = loaded(name, path)
    assert (len(corpus.training), len(corpus.validation), corpus.own) == (97_280, 5_120, None)
    for wrong in (None, other):
        reason = data.load(name, 64, 1000, wrong)
        assert isinstance(reason, str)
        assert "--data PATH" in reason
    assert data.file_name(tmp_path / "missing.txt") is None


def test_each_bad_text_has_its_reason(tmp_path: Path) -> None:
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_bytes(b"")
    short.write_bytes(b"too short")
    for path, expected in (
        (empty, "is empty: name a text of at least 1000 bytes"),
        (short, "less than one batch"),
        (tmp_path / "missing", "No such file"),
    ):
        reason = data.load("shakespeare", 64, 1000, path)
        assert isinstance(reason, str)
        assert expected in reason
        assert str(path) in reason
    assert "too few" in str(data.load("shakespeare", 64, 300_000, None))
    unknown = data.load("tolstoy", 64, 1000, None)
    assert isinstance(unknown, str)
    assert "shakespeare" in unknown


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000))
def test_batches_are_a_function_of_seed_and_step(seed: int, step: int) -> None:
    texts = [np.arange(200, dtype=np.uint8), np.arange(50, 250, dtype=np.uint8)]
    first = data.batch(texts, seed, step, 8, 33)
    assert first.shape == (8, 33)
    assert np.array_equal(first, data.batch(texts, seed, step, 8, 33))
    assert not np.array_equal(first, data.batch(texts, seed, step + 1, 8, 33))
    assert np.array_equal(np.diff(first.astype(int), axis=1), np.ones((8, 32)))  # windows are contiguous


def test_windows_reach_both_ends_of_a_text() -> None:
    text = np.arange(100, dtype=np.uint8)
    starts = {int(row[0]) for step in range(200) for row in data.batch([text], 7, step, 8, 90)}
    assert starts == set(range(11))


@pytest.mark.parametrize("windows", [1, 2, 64])
def test_validation_windows_spread_over_the_split(windows: int) -> None:
    corpus = loaded()
    rows = data.validation_windows(corpus, windows, 129)
    assert rows.shape == (windows, 129)
    assert np.array_equal(rows[0], corpus.validation[:129])
    if windows > 1:
        assert np.array_equal(rows[-1], corpus.validation[-129:])
