"""Who of those that fetch the same blob takes which chunk first, so that a slow line carries each about once. Pure.

Fetchers stand in an order of which each has about the same notion: by `place`. A chunk's turn begins at the fetcher
whose number it has (modulo how many they are) and goes round: it is a fetcher's turn once all before it have the chunk.

Chunks are bits of integers. What is here is worked out when somebody's bitmap changes, not when a chunk comes.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from blake3 import blake3

from .port import PeerId

RARE_LEVELS: Final = 3  # chunks that none, one or two others have too are told apart


def place(peer: PeerId, digest: bytes) -> int:
    """Where a peer stands among the fetchers of a blob: by chance, and for each blob anew."""
    return int.from_bytes(blake3(peer.encode() + digest).digest(4))


def turns(haves: Sequence[int], own: int, count: int) -> int:
    """The chunks whose turn it is.

    Args:
        haves: what each fetcher has, in their order.
        own: one's own number among them.
        count: of the blob's chunks.
    """
    total = len(haves)
    rounds = -(-count // total)
    every = ((1 << total * rounds) - 1) // ((1 << total) - 1)  # chunks 0, total, 2 * total, ...
    passed = (1 << count) - 1
    turn = every << own & passed
    for back in range(1, total):
        number = (own - back) % total
        passed &= haves[number]
        turn |= every << number & passed
    return turn


def by_rarity(haves: Iterable[int]) -> list[int]:
    """Masks of the chunks that at most 0, 1, ... of these have."""
    more = [0] * RARE_LEVELS  # chunks that more than 0, 1, ... have
    for have in haves:
        for level in range(RARE_LEVELS - 1, 0, -1):
            more[level] |= more[level - 1] & have
        more[0] |= have
    return [~mask for mask in more]


def first_bit(mask: int, start: int) -> int:
    """The lowest bit of `mask` that is not below `start`, or else its lowest."""
    rest = mask >> start << start or mask
    return (rest & -rest).bit_length() - 1
