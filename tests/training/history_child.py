"""A program for test_history.py: writes what rounds took until it is killed, and says up to which round that is kept.

python history_child.py FILE
"""

import sys
from pathlib import Path

from shoal.training.history import Made, Part
from shoal.training.history_service import History

SWARM = b"s" * 32


def row(round: int) -> Made:
    """Of a size that does not fit a page now and then."""
    return Made(round, (Part(round, round.to_bytes(4, "big") * (1 + round % 1000)),))


def main(path: Path) -> None:
    with History(path, SWARM) as history:
        round = history.reader.last(1)
        while True:
            print(round, flush=True)
            history.stage(map(row, range(round + 100, round + 110)))
            if round % 3 == 0:
                history.drop_draft()
                history.append([row(round + 1)])
                round += 1
            else:
                history.drop_draft()
                history.stage(map(row, range(round + 1, round + 4)))
                history.adopt()
                round += 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
