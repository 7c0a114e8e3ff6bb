"""How texts are dealt to members where their data differ."""

import pytest

from bench.attacks_text import MEMBERS, OWN_BYTES_MIN, plays, spread
from shoal.training import data


def test_plays_are_the_whole_text_cut_where_each_begins() -> None:
    text = data.TEXTS["shakespeare"]()
    found = plays(text)
    assert len(found) == 38
    assert b"".join(found) == text
    assert all(play.strip().splitlines()[2] == b"ACT I" for play in found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_byte_is_dealt_to_one_member_and_nobody_has_next_to_none(seed: int) -> None:
    texts = [bytes([number]) * 130_000 for number in range(36)]
    owns = spread(texts, seed)
    for number, text in enumerate(texts):
        assert sum(own.count(number) for own in owns) == len(text)
    assert len(owns) == len(MEMBERS)
    assert min(map(len, owns)) >= OWN_BYTES_MIN
    assert owns == spread(texts, seed)
