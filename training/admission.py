"""Who may join a swarm, and with how many votes: what an invite's ticket grants, and what a newcomer has to show.

By INVITE: a voter makes a ticket, a fresh key (the *token*) with its signature on that key's public half. Who has the
ticket signs itself in with the token. The log shows signatures only, so who reads it can let nobody in.

One ticket serves any number of newcomers: people post an invite in a chat, and that is its point. What a leaked one
costs: whoever reads it can come under as many keys as they please, each with a vote, and outvote the members. It is
worth nothing once its inviter has left or was removed. Only the creator's hold after the creator has left: it is the
creator who says in the spec that invites let people in, and a founder who goes home should not shut the door for good.
Who cannot bear a leak takes LIST (the spec names everybody) or OPEN (anybody, without a vote until a voter vouches).

A peer may ask with any bytes, and all that others signed. What it cannot: come in by a ticket that it was not given, by
another swarm's, by what another newcomer showed, or after it was removed; nor bring in somebody else, whose own word is
always asked for and is good for WORD_ROUNDS_MAX rounds, and not after it has left (`asked_at`), so that who left is not
brought back by what it said before.
"""

from typing import Final

from shoal.transport.envelope import Signature, Verify
from shoal.transport.identity import Identity, peer_id_of, verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .agreed import Position
from .members import PROOF_BYTES_MAX, Electorate, Join
from .ports import Signer
from .records import RoundNumber
from .spec import AdmissionRule, Spec

WORD_ROUNDS_MAX: Final = 64  # who is not let in by then asks anew; larger: who left can be brought back for longer


class Ticket(Message, frozen=True):
    """What an invite carries. Whoever has it may join."""

    inviter: Digest  # the 32 bytes of its Ed25519 public key
    seed: Digest  # of the token, an Ed25519 key
    signature: Signature  # the inviter's, on the token


class Shown(Message, frozen=True):
    """What a newcomer shows of its ticket: of no use to anybody else."""

    inviter: Digest
    token: Digest  # its public key
    signature: Signature  # the inviter's, on the token
    by_token: Signature  # on the newcomer


class Admission(Message, frozen=True):
    """Why somebody should be let in: what stands in `Join.admission`."""

    round: RoundNumber  # the newest that the newcomer knew when it asked
    word: Signature  # the newcomer's: it wants to join
    shown: Shown | None  # by INVITE, of everybody but the creator


def ticket_statement(swarm: bytes, token: bytes) -> bytes:
    """What an inviter signs."""
    return encode(("shoal/ticket/1", swarm, token))


def token_statement(swarm: bytes, member: str) -> bytes:
    """What a token signs for who has it."""
    return encode(("shoal/token/1", swarm, member))


def join_statement(swarm: bytes, member: str, round: int) -> bytes:
    """What a newcomer signs itself; `round` is the newest it knows."""
    return encode(("shoal/join/1", swarm, member, round))


def make_ticket(signer: Signer, swarm: bytes, seed: bytes) -> Ticket:
    """A ticket of the signer's. `seed` is 32 random bytes, used for nothing else."""
    token = Identity.from_seed(seed).public_key
    return Ticket(signer.public_key, seed, signer.sign(ticket_statement(swarm, token)))


def obstacle(spec: Spec, swarm: bytes, member: PeerId, ticket: Ticket | None) -> str | None:
    """Why `member` would not be let in with this ticket, in words. None: nothing that can be seen from outside."""
    if member == spec.creator or spec.admission is AdmissionRule.OPEN:
        return None
    if spec.admission is AdmissionRule.LIST:
        is_listed = member in spec.allowed
        return None if is_listed else f"you, {member}, are NOT on its list: ask the creator for a swarm that lists you"
    if ticket is None:
        return (
            "this invite carries no ticket, and only who has a member's is let in: "
            "ask a member for an invite (`shoal swarm invite`)"
        )
    token = Identity.from_seed(ticket.seed).public_key
    is_signed = verify(peer_id_of(ticket.inviter), ticket_statement(swarm, token), ticket.signature)
    return None if is_signed else "this invite's ticket is forged, or another swarm's: ask a member for a fresh invite"


def join_change(spec: Spec, swarm: bytes, signer: Signer, ticket: Ticket | None, round: int) -> Join | str:
    """The change that a newcomer asks for, or why it would be in vain.

    Args:
        round: the newest it knows. What it asks for is good for WORD_ROUNDS_MAX more.
    """
    member = signer.peer_id
    wrong = obstacle(spec, swarm, member, ticket)
    if wrong is not None:
        return wrong
    word = signer.sign(join_statement(swarm, member, round))
    needs_ticket = spec.admission is AdmissionRule.INVITE and member != spec.creator
    shown = _show(ticket, swarm, member) if needs_ticket and ticket is not None else None
    return Join(member, votes_of_newcomers(spec.admission), encode(Admission(round, word, shown)))


def _show(ticket: Ticket, swarm: bytes, member: PeerId) -> Shown:
    token = Identity.from_seed(ticket.seed)
    by_token = token.sign(token_statement(swarm, member))
    return Shown(ticket.inviter, token.public_key, ticket.signature, by_token)


def votes_of_newcomers(admission: AdmissionRule) -> int:
    """With how many votes one is let in."""
    return 0 if admission is AdmissionRule.OPEN else 1


def asked_at(admission: bytes) -> int | None:
    """The newest round that the newcomer knew when it asked. If it has left since, its word was for the time before."""
    asked = decode(admission, Admission, PROOF_BYTES_MAX)
    return None if isinstance(asked, Malformed) else asked.round


def admits(
    spec: Spec, swarm: bytes, position: Position, member: PeerId, admission: bytes, verify: Verify = verify
) -> int | None:
    """With how many votes the record after `position` may let `member` in for this reason. None: it may not."""
    asked = decode(admission, Admission, PROOF_BYTES_MAX)
    if isinstance(asked, Malformed) or encode(asked) != admission:
        return None
    is_fresh = 0 <= position.round - asked.round <= WORD_ROUNDS_MAX
    if not is_fresh or member in position.electorate.barred or not _may(spec, swarm, position, member, asked, verify):
        return None
    is_said = verify(member, join_statement(swarm, member, asked.round), asked.word)
    return votes_of_newcomers(spec.admission) if is_said else None


def _may(spec: Spec, swarm: bytes, position: Position, member: PeerId, asked: Admission, verify: Verify) -> bool:
    """Whether the spec's rule lets it in, if it has said itself that it wants to join."""
    if spec.admission is AdmissionRule.INVITE and member != spec.creator:
        return asked.shown is not None and _is_invited(spec, swarm, position.electorate, member, asked.shown, verify)
    is_listed = spec.admission is not AdmissionRule.LIST or member in spec.allowed or member == spec.creator
    return is_listed and asked.shown is None


def _is_invited(spec: Spec, swarm: bytes, electorate: Electorate, member: PeerId, shown: Shown, verify: Verify) -> bool:
    inviter = peer_id_of(shown.inviter)
    if inviter in electorate.barred or not (electorate.votes(inviter) or inviter == spec.creator):
        return False
    return verify(inviter, ticket_statement(swarm, shown.token), shown.signature) and verify(
        peer_id_of(shown.token), token_statement(swarm, member), shown.by_token
    )
