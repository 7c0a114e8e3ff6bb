"""Whatever bytes a member tells of its history, or a file of a log has in it: a value, or one clear refusal."""

import random
from typing import Final

from shoal.training.history import Made, Part, shares_of
from shoal.training.log_file import Contents, Opened, certify, framed, head, open_file, proofs, rounds
from shoal.training.records import Contribution, seal_contribution
from shoal.training.skipping import Anchor
from shoal.training.spec import sign_spec
from shoal.transport.wire import Malformed, decode, encode
from tests.fuzz.garbage import corpus_of
from tests.fuzz.test_decoders import COUNT, attack
from tests.node.replayed_swarm import ID, METHOD, SPEC, Trained
from tests.training.agreed_log import ANN

TRAINED: Final = Trained().go_on(8)
FILE_COUNT: Final = COUNT // 4  # each has a few dozen signatures


class Reading:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


def read_row(data: bytes) -> object:
    made = decode(data, Made, 2**20)
    return made if isinstance(made, Malformed) else shares_of(made, ID, SPEC, METHOD)


def read_contributions(data: bytes) -> object:
    """As if a member had signed this, whatever it is."""
    body = decode(data, Contribution, 2**20)
    if isinstance(body, Malformed):
        return body
    envelope = seal_contribution(ANN, ID, 9, body).envelope
    return shares_of(Made(9, (Part(1, envelope),)), ID, SPEC, METHOD)


def read_log(data: bytes) -> object:
    reading = Reading(data)
    opened = open_file(reading.read)
    return opened if isinstance(opened, Malformed) else read_rest(reading, opened)


def read_rest(reading: Reading, opened: Opened) -> object:
    certified = certify(reading.read, opened, lambda done: None)
    if isinstance(certified, Malformed):
        return certified
    for each in rounds(reading.read, opened.contents):
        if isinstance(each, Malformed):
            return each
        shares = shares_of(each[0], opened.swarm, opened.spec, METHOD)
        if isinstance(shares, Malformed):
            return shares
    return certified


def written() -> bytes:
    log = TRAINED.log
    shown = list(proofs(Anchor(), 0, 8, lambda start, last: log.leaps(start)))
    contents = Contents(sign_spec(SPEC, ANN), ID, len(shown), 7)
    return head(contents) + b"".join(map(framed, [*shown, *TRAINED.rows[:7]]))


def test_any_bytes_are_a_row_that_may_be_applied_or_one_refusal() -> None:
    attack(read_row, [encode(row) for row in TRAINED.rows], "row")


def test_whatever_is_signed_is_a_contribution_that_may_be_applied_or_one_refusal() -> None:
    chance = random.Random(11)
    sound = [encode(Contribution(8, bytes(32), b"", 1, b"\x01" + bytes(7)))]
    attack(read_contributions, [*sound, *corpus_of(chance, [Contribution], 20)], "signed contribution of a row")


def test_any_bytes_are_a_log_or_one_refusal() -> None:
    assert not isinstance(read_log(written()), Malformed)
    attack(read_log, [written()], "log file", FILE_COUNT)
