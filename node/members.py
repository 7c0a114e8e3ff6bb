"""A swarm's members in the local API: who they are, and what this node's owner wants of them."""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from shoal.training.members import VOTES_MAX
from shoal.training.membership_view import MembershipView, MemberView, Removal
from shoal.training.service import NOT_RUNNING, SwarmService
from shoal.transport.port import PeerId

from .complaint import Complaint, Exit
from .local_api import Answer, Methods
from .logged import split_of
from .swarms import Joined, Swarms

SHOWN_MAX = 8  # members that a complaint names

PeerText = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class RemoveMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: PeerText  # its id, or how that begins or ends
    swarm: str | None = None


class VouchMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: PeerText
    votes: Annotated[int, msgspec.Meta(ge=1, le=VOTES_MAX)]
    swarm: str | None = None


class MemberMethods:
    """Answers local requests about who is in a swarm."""

    def __init__(self, swarms: Swarms, me: PeerId) -> None:
        self._swarms = swarms
        self._me = me

    def table(self) -> Methods:
        return {"swarm.remove": Answer(RemoveMember, self.remove), "swarm.vouch": Answer(VouchMember, self.vouch)}

    async def remove(self, params: RemoveMember) -> object:
        joined, service, view = self._find(params.swarm)
        peer = choose_member(params.peer, view)
        refused = await service.remove(peer)
        if refused is not None:
            raise Complaint(refused)
        asked = service.removal(peer)
        row = None if asked is None else removal_as_json(asked)
        return {"id": joined.id, "peer_id": peer, "removal": row}

    async def vouch(self, params: VouchMember) -> object:
        joined, service, view = self._find(params.swarm)
        peer = choose_member(params.peer, view)
        refused = await service.vouch(peer, params.votes)
        if refused is not None:
            raise Complaint(refused)
        kept = sum(member.votes for member in view.members if member.peer == self._me) - params.votes
        return {"id": joined.id, "peer_id": peer, "votes": params.votes, "votes_kept": kept}

    def _find(self, swarm: str | None) -> tuple[Joined, SwarmService, MembershipView]:
        joined = self._swarms.find(swarm)
        service = joined.running()
        view = service.membership()
        if view is None:
            raise Complaint(NOT_RUNNING)
        return joined, service, view


def choose_member(text: str, view: MembershipView) -> PeerId:
    """The member whose id is `text`, or alone begins or ends so. Raises Complaint."""
    fitting = among(text, [member.peer for member in view.members])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Complaint(f"'{text}' fits several members, say more of the id: {named(fitting)}", Exit.USAGE)
    if among(text, view.barred):
        raise Complaint(f"{named(among(text, view.barred))} was removed for good already")
    members = named(member.peer for member in view.members)
    raise Complaint(f"no member's id begins or ends with '{text}'; the members are {members}")


def among(text: str, peers: Iterable[PeerId]) -> list[PeerId]:
    """Those that are `text`, or begin or end so."""
    return [peer for peer in peers if peer.startswith(text) or peer.endswith(text)]


def named(peers: Iterable[PeerId]) -> str:
    listed = list(peers)
    more = f" and {len(listed) - SHOWN_MAX} more" if len(listed) > SHOWN_MAX else ""
    return ", ".join(listed[:SHOWN_MAX]) + more


def agreement_as_json(view: MembershipView, me: PeerId) -> dict[str, Any]:
    """Who the members are, and how it stands with their agreement."""
    newest = view.newest
    return {
        "quorum": {
            "rule": view.quorum.value,
            "votes": view.votes,
            "votes_needed": view.votes_needed,
            "half_is_enough_with": view.senior,
            "votes_connected": view.votes_here,
        },
        "newest": {
            "round": newest.round,
            "record": newest.record.hex(),
            "attempt": newest.attempt,
            "proposer": newest.proposer,
            "age_s": None if newest.age_s is None else round(newest.age_s, 1),
        },
        "weighed_round": view.weighed_round,
        "members": [member_as_json(member, is_this_node=member.peer == me) for member in view.members],
        "barred": list(view.barred),
        "removals": [removal_as_json(removal) for removal in view.removals],
        "split": None if view.split is None else split_of(view.split),
    }


def member_as_json(member: MemberView, *, is_this_node: bool) -> dict[str, Any]:
    suspension = member.suspension
    return {
        "peer_id": member.peer,
        "is_this_node": is_this_node,
        "votes": member.votes,
        "weight": member.weight,
        "trust": member.trust,
        "banned_until": member.banned_until,
        "since_round": member.since,
        "vouched_by": member.voucher,
        "standing": None if member.standing is None else member.standing.name.lower(),
        "is_connected": member.is_here,
        "silent_s": None if member.silent_s is None else round(member.silent_s, 1),
        "round": member.round,
        "taken_round": member.taken_round,
        "suspended": None
        if suspension is None
        else {"round": suspension.round, "record": None if suspension.record is None else suspension.record.hex()},
    }


def removal_as_json(removal: Removal) -> dict[str, Any]:
    return {
        "peer_id": removal.member,
        "voters": list(removal.voters),
        "votes": removal.votes,
        "votes_needed": removal.votes_needed,
        "is_wanted": removal.is_wanted,
    }
