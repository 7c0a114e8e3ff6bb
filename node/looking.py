"""Looking at a swarm before joining it: its spec, from whoever says that it is a member.

What a malicious peer may do: say that it is one, at any address. What it achieves: to be dialed and asked once; a spec
that it made up does not hash to the swarm's id.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from shoal.dht.contacts import Contact
from shoal.training.admission import Ticket, obstacle
from shoal.training.service import fetch_spec
from shoal.training.spec import SignedSpec, Spec, open_spec
from shoal.transport.port import Address, Code, PeerId, Refusal, Transport
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .invite import Invite

DIAL_S: Final = 10.0
SPEC_S: Final = 10.0
LOOK_S: Final = 120.0  # for all members of an invite: one that somebody made up may name a hundred dead addresses

FindMembers = Callable[[bytes], Awaitable[Sequence[PeerId]]]  # connected ones


@dataclass(frozen=True, slots=True)
class Offer:
    """A swarm as a newcomer sees it before joining."""

    invite: Invite
    signed: SignedSpec
    spec: Spec
    answered: PeerId

    @property
    def ticket(self) -> Ticket | None:
        """The invite's."""
        granted = self.invite.granted
        return None if granted is None else Ticket(self.invite.members[0].key, granted.seed, granted.signature)

    def obstacle(self, member: PeerId) -> str | None:
        """Why the swarm would not let `member` in, as `admission.obstacle`."""
        return obstacle(self.spec, self.invite.swarm, member, self.ticket)


async def look(transport: Transport, invite: Invite, find: FindMembers) -> Offer:
    """Ask the invite's members for the spec; if none has it, whoever else says to be a member.

    Raises:
        Complaint: nobody answers, or those who do are not in the swarm any more.
    """
    reasons: list[str] = []
    named = [Contact(*member) for member in invite.addresses()]
    with trio.move_on_after(LOOK_S):
        offer = await _ask_all(transport, invite, named, reasons)
        if offer is None:
            offer = await _ask_all(transport, invite, map(Contact, await find(invite.swarm)), reasons)
        if offer is not None:
            return offer
    raise Complaint(
        f"nobody this invite names can let you in ({'; '.join(reasons) or f'no answer in {LOOK_S:g} s'}): "
        "ask a member for a fresh one (`shoal swarm invite`)",
        Exit.INVITE,
    )


async def _ask_all(
    transport: Transport, invite: Invite, members: Iterable[Contact], reasons: list[str]
) -> Offer | None:
    """The spec, from the first who gives it; `reasons` gets why the others do not."""
    for member in members:
        if member.peer == transport.peer_id:
            reasons.append("one of its members is this very node")
            continue
        answer = await ask_spec(transport, member, invite.swarm)
        if isinstance(answer, str):
            reasons.append(answer)
        else:
            return Offer(invite, *answer, member.peer)
    return None


async def ask_spec(transport: Transport, member: Contact, swarm: bytes) -> tuple[SignedSpec, Spec] | str:
    """The spec of a swarm from somebody said to be in it; or why not."""
    refused = await reach(transport, member.peer, member.addresses)
    if refused is not None:
        return refused.message
    answer = await fetch_spec(transport, member.peer, swarm, timeout_s=SPEC_S)
    if isinstance(answer, Refusal):
        gone = answer.code is Code.UNKNOWN_METHOD
        return f"{member.peer} is not in this swarm any more" if gone else f"{member.peer}: {answer.message}"
    spec = answer if isinstance(answer, Malformed) else open_spec(answer, swarm)
    if isinstance(answer, Malformed) or isinstance(spec, Malformed):
        return f"{member.peer}: {spec.reason if isinstance(spec, Malformed) else answer}"
    return answer, spec


async def reach(transport: Transport, peer: PeerId, addresses: tuple[Address, ...]) -> Refusal | None:
    """Be connected to `peer`, dialing its addresses in turn."""
    if any(connection.peer == peer for connection in transport.connections()):
        return None
    refused = Refusal(Code.UNREACHABLE, f"{peer} has no address")
    for address in addresses:
        answer = await transport.connect(address, timeout_s=DIAL_S)
        if not isinstance(answer, Refusal):
            return None
        refused = Refusal(answer.code, f"{address}: {answer.message}")
    return refused
