"""Whether the members' states differ so that none can ever be certified: then nothing goes on, and people have to know
whose hardware computed what.

What peers say of their states may be a lie; it stops nobody as long as a quorum may yet be found to agree.
"""

from collections.abc import Iterable, Mapping, Set

from shoal.transport.port import PeerId

from .members import Electorate
from .records import Head
from .roster import Roster


def torn(head: Head, told: Mapping[Head, Set[PeerId]], electorate: Electorate, roster: Roster) -> str | None:
    """How the members' states after the round of `head` differ, if no quorum can ever certify one of them.

    Args:
        head: where this member stands.
        told: who says that it stands where.
    """
    here = {other: set(peers) for other, peers in told.items() if other.record == head.record}
    here.setdefault(head, set()).add(roster.me)
    known = set[PeerId]().union(*here.values(), *told.values())
    unknown = {PeerId(seat.member) for seat in electorate.seats} - known
    if len(here) < 2 or any(electorate.is_quorum(peers | unknown) for peers in here.values()):
        return None
    rows = sorted(f"{other.digest.hex()[:12]}: {_computers(peers, roster)}" for other, peers in here.items())
    text = f"the states after round {head.round} differ, and no quorum has computed one: {'; '.join(rows)}"
    return f"{text}. Nothing goes on until enough members compute alike"


def _computers(peers: Iterable[PeerId], roster: Roster) -> str:
    named = ((peer, "this node" if peer == roster.me else roster.platform(peer)) for peer in sorted(peers))
    return ", ".join(f"{peer} ({platform})" for peer, platform in named)
