"""A program for test_archive_kill.py: writes a log until it is killed, and says what is acknowledged.

    python archive_child.py FILE SEED

It goes on where the log ends. What a record says follows from its round, so whoever writes the same has the same
hashes. A line before the file is opened; then one for each call that returned.
"""

import random
import sys
from pathlib import Path

from shoal.training.agreed import Position, next_record, record_value
from shoal.training.agreeing import Keep
from shoal.training.archive_service import Archive
from shoal.training.members import Change, Resume, Suspend, electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import Decided, Journal, Step, Vote
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
PEERS = [PeerId(f"peer {number}".ljust(40, ".")) for number in range(3)]
ORIGIN = Position(0, SWARM, electorate_of(Quorum.MAJORITY, dict.fromkeys(PEERS, 1)))
CHANGES = 5  # so many rounds from one change to the next
BATCH = 4  # records in one call, at most


def keep_after(position: Position) -> Keep:
    """The record that comes next. Nobody signs: that is checked elsewhere."""
    round = position.round + 1
    changes: tuple[Change, ...] = ()
    if round % CHANGES == 0:
        is_suspended = position.electorate.by_member[PEERS[2]].is_suspended
        changes = (Resume(PEERS[2]) if is_suspended else Suspend(PEERS[2]),)
    record = next_record(position, round.to_bytes(32, "big"), (), changes)
    assert not isinstance(record, Malformed), record
    electorate = position.electorate.after(round, changes)
    assert not isinstance(electorate, Malformed), electorate
    value = record_value(record)
    after = position.after(record, value.hash, electorate)
    return Keep(Decided(round, 0, value.data, ()), record, after, electorate)


def journal_of(round: int, attempt: int) -> Journal:
    """Of a size that does not fit a page."""
    vote = Vote(PEERS[0], round, attempt, Step.PREVOTE, bytes(32), round.to_bytes(64, "big"))
    return Journal(round, attempt, None, (vote,) * 4, None)


def main(path: Path, seed: str) -> None:
    choice = random.Random(seed)
    print("opening", flush=True)
    with Archive(path, ORIGIN) as archive:
        row = archive.reader.newest()
        position = archive.reader.position(0 if row is None else row.round)
        while position is not None:
            attempt = choice.randrange(1000)
            archive.save_journal(journal_of(position.round + 1, attempt))
            print("journal", position.round + 1, attempt, flush=True)
            keeps: list[Keep] = []
            for _ in range(choice.randint(1, BATCH)):
                keeps.append(keep_after(position))
                position = keeps[-1].position
            archive.append(keeps)
            print("round", position.round, position.record.hex(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
