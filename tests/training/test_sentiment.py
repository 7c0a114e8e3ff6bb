"""The sentences are the published ones, labelled by sign, in two splits that never mix."""

import io
import tarfile
from pathlib import Path

import pytest

from shoal.training import sentiment
from shoal.training.registry import data_folder


@pytest.fixture(scope="module")
def folder() -> Path:
    if isinstance(sentiment.load(data_folder(), 2, 2), str):
        pytest.skip(f"NOT TESTED: {sentiment.load(data_folder(), 2, 2)}")
    return data_folder()


def loaded(folder: Path, training: int, evaluation: int) -> sentiment.Sentences:
    sentences = sentiment.load(folder, training, evaluation)
    assert not isinstance(sentences, str), sentences
    return sentences


def test_both_splits_are_balanced_and_share_no_sentence(folder: Path) -> None:
    sentences = loaded(folder, 3000, 1000)
    for split, count in ((sentences.training, 3000), (sentences.evaluation, 1000)):
        assert len(split) == len({sentence.text for sentence in split}) == count
        assert sum(sentence.is_positive for sentence in split) == count // 2
    assert not {each.text for each in sentences.training} & {each.text for each in sentences.evaluation}


def test_labels_are_signs_of_ratings_and_lengths_are_bounded(folder: Path) -> None:
    ratings: dict[str, float] = {}
    for line in (folder / sentiment.FILE_NAME).read_text().splitlines():
        _, rating, text = line.split("\t")
        ratings[text.strip()] = float(rating)
    sentences = loaded(folder, 1000, 500)
    for sentence in (*sentences.training, *sentences.evaluation):
        assert abs(ratings[sentence.text]) >= 1
        assert (ratings[sentence.text] > 0) is sentence.is_positive
        assert 20 <= len(sentence.text) <= 120


def test_a_larger_split_begins_with_the_smaller_one_and_moves_nothing_in_the_other(folder: Path) -> None:
    small, large = loaded(folder, 40, 20), loaded(folder, 400, 20)
    assert large.training[:40] == small.training
    assert large.evaluation == small.evaluation
    assert len(loaded(folder, 41, 20).training) == 40


def test_more_sentences_than_there_are_is_refused_with_their_number(folder: Path) -> None:
    assert sentiment.load(folder, 40_000, 20) == "train_sentences is 40000; there are 3918"
    assert "evaluation_sentences is 5000" in str(sentiment.load(folder, 40, 5000))


def test_without_the_file_it_says_what_to_run(tmp_path: Path) -> None:
    assert sentiment.load(tmp_path, 2, 2) == sentiment.MISSING
    assert "make smollm" in sentiment.MISSING


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / sentiment.FILE_NAME).write_text("1\t2.0\tA very good film indeed, I say.\n")
    assert "not the file that swarms train on" in str(sentiment.load(tmp_path, 2, 2))


def packed(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_the_file_comes_out_of_the_distribution_as_it_was(folder: Path, tmp_path: Path) -> None:
    original = (folder / sentiment.FILE_NAME).read_bytes()
    distribution = tmp_path / "vader.tar.gz"
    distribution.write_bytes(packed({f"vader/{sentiment.ARCHIVE}": packed({sentiment.MEMBER: original})}))
    sentiment.install(distribution, tmp_path / "data")
    assert (tmp_path / "data" / sentiment.FILE_NAME).read_bytes() == original


@pytest.mark.parametrize(
    "distribution",
    [
        b"no archive",
        packed({"vader/setup.py": b""}),
        packed({f"vader/{sentiment.ARCHIVE}": b"no archive"}),
        packed({f"vader/{sentiment.ARCHIVE}": packed({"other.txt": b""})}),
        packed({f"vader/{sentiment.ARCHIVE}": packed({sentiment.MEMBER: b"1\t2\tOther sentences"})}),
    ],
    ids=["no archive", "without it", "none inside", "other files", "other sentences"],
)
def test_another_distribution_is_refused_and_leaves_nothing(distribution: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vader.tar.gz"
    path.write_bytes(distribution)
    with pytest.raises(ValueError, match=r"vader\.tar\.gz"):
        sentiment.install(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()
