"""One digest for equal heads, kept at the cost of what changes."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.dots import Writer
from shoal.crdt.heads import BUCKETS, SALT_BYTES, Heads, bucket_of
from shoal.crdt.operation import Stretch
from tests.crdt.test_replica import KEYS, Author, admit, histories, replica

SALT = b"1" * SALT_BYTES


@settings(max_examples=60, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_what_is_kept_up_batch_by_batch_is_what_is_worked_out_at_once(
    history: list[Stretch], order: random.Random
) -> None:
    target = replica()
    heads = Heads(target)
    shuffled = list(history)
    order.shuffle(shuffled)
    for stretch in shuffled:
        heads.update(kept.writer for kept in target.admit(stretch.data).kept)
        anew = Heads(target)
        assert heads.digest == anew.digest
        assert list(heads.differing(SALT, anew.short(SALT), 0)) == []


def test_only_the_buckets_of_writers_who_differ_differ_from_wherever_one_begins() -> None:
    authors = [Author(key) for key in KEYS]
    written = [author.write(author.add("a", b"1")) for author in authors]
    one, other = replica(), replica()
    admit(one, written)
    admit(other, written[1:])
    one_heads, other_heads = Heads(one), Heads(other)
    for start in (0, 17, BUCKETS - 1):
        differing = list(one_heads.differing(SALT, other_heads.short(SALT), start))
        assert differing == [bucket_of(authors[0].writer)]
    assert one_heads.digest != other_heads.digest


def test_the_short_digests_of_one_state_are_others_in_each_exchange() -> None:
    heads = Heads(replica())
    assert heads.short(SALT) != heads.short(b"2" * SALT_BYTES)


def test_every_writer_has_a_bucket() -> None:
    assert {bucket_of(Writer(bytes([first]) * 32)) for first in range(256)} == set(range(BUCKETS))
