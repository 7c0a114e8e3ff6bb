"""What a member's owner wants of the members: that one goes, that one votes, that it goes itself. A shell.

Signed here, and spread; what comes of it the next records say.
"""

import enum
from typing import TYPE_CHECKING, Final

import trio

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import leave_statement, remove_statement, vouch_statement
from .members import Leave, Remove, Vouch
from .membership_view import cannot_remove
from .ports import Signer
from .rounds import Rounds
from .votes import Signed

if TYPE_CHECKING:
    from .engine_service import Engine

LEAVE_S: Final = 5.0  # until a record says that this member has left; then it goes all the same


class Parting(enum.Enum):
    """How a member went."""

    RECORDED = "recorded"  # a record says so: its votes count no more
    UNRECORDED = "unrecorded"  # there was no quorum in time: its votes still count among all
    UNSEEN = "unseen"  # nobody else is in the log, or this node never was


class Wishes:
    """One member's. What returns text says why a wish is in vain."""

    def __init__(self, swarm: bytes, signer: Signer, engine: "Engine", rounds: Rounds) -> None:
        self._swarm = swarm
        self._signer = signer
        self._engine = engine
        self._rounds = rounds

    def remove(self, member: PeerId) -> str | None:
        """Say that `member` should go: it does once a quorum of the others has said so."""
        electorate, me = self._rounds.electorate, self._signer.peer_id
        seat = electorate.by_member.get(member)
        if seat is None:
            return f"{member} is no member"
        if member == me:
            return "a node does not remove itself: `shoal swarm leave` leaves"
        if not electorate.votes(me):
            return "this node has no vote"
        wrong = cannot_remove(electorate, member)
        if wrong is not None:
            return wrong
        word = self._signer.sign(remove_statement(self._swarm, member, seat.since))
        change = Remove(member, (Signed(me, word),))
        self._engine.do(self._rounds.wants(trio.current_time(), change))
        return None

    def vouch(self, member: PeerId, votes: int) -> str | None:
        """Give `member` some of this one's votes."""
        electorate, me = self._rounds.electorate, self._signer.peer_id
        seat = electorate.by_member.get(member)
        if seat is None:
            return f"{member} is no member"
        word = self._signer.sign(vouch_statement(self._swarm, me, member, votes, seat.since))
        change = Vouch(member, me, votes, word)
        changed = electorate.after(self._rounds.round, (change,))
        if isinstance(changed, Malformed):
            return changed.reason
        self._engine.do(self._rounds.wants(trio.current_time(), change))
        return None

    async def leave(self) -> Parting:
        """Have a record say that this member leaves: until one does, or for a while."""
        rounds, me = self._rounds, self._signer.peer_id
        seat = rounds.electorate.by_member.get(me)
        if seat is None or len(rounds.electorate.seats) == 1:
            return Parting.UNSEEN
        word = self._signer.sign(leave_statement(self._swarm, me, seat.since))
        self._engine.do(rounds.resign(trio.current_time(), Leave(me, word)))
        with trio.move_on_after(LEAVE_S):
            while me in rounds.electorate.by_member or self._engine.has_votes_to_say():
                await self._engine.wait_for_change()
        return Parting.UNRECORDED if me in rounds.electorate.by_member else Parting.RECORDED
