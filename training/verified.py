"""Signatures that were found true, each checked once: what is signed comes again and again, in words that wait and in
the prevotes that many members show.

A peer may send any signatures. What is forged is not remembered: it cannot push out what is true, and how often it is
checked is what its sender's allowance bounds (opening.py).
"""

from collections import OrderedDict
from typing import Final

from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId

from .votes import Decided, shown_by, vote_statement

VERIFIED_MAX: Final = 8192  # remembered; memory: 0.5 KB each. A round of a thousand voters, their words beside it


class Verified:
    """A `Verify` that remembers."""

    def __init__(self, verify: Verify = verify) -> None:
        self._verify = verify
        self._true: OrderedDict[tuple[PeerId, bytes, bytes], None] = OrderedDict()

    def __call__(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        key = peer, message, signature
        if key in self._true:
            self._true.move_to_end(key)
            return True
        if not self._verify(peer, message, signature):
            return False
        self._remember(key)
        return True

    def learn(self, decided: Decided, swarm: bytes) -> None:
        """All of this record's signatures were found true, in a thread."""
        for vote in shown_by(decided):
            statement = vote_statement(swarm, vote.round, vote.attempt, vote.step, vote.choice)
            self._remember((PeerId(vote.voter), statement, vote.signature))

    def _remember(self, key: tuple[PeerId, bytes, bytes]) -> None:
        self._true[key] = None
        if len(self._true) > VERIFIED_MAX:
            self._true.popitem(last=False)
