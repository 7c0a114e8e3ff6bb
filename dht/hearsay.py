"""Which of the addresses that a peer tells of others are worth dialing.

What a malicious peer may tell: any addresses. What it cannot do: turn nodes all over the world against what stands
behind their owners' routers. Private and loopback addresses are taken only from a peer that is met at one itself; from
afar they could not be right.
"""

from dataclasses import replace

from shoal.transport.port import Address

from .contacts import Contact, ranges_of
from .messages import KadMessage


def worth_dialing(answer: KadMessage, met_at: Address | None) -> KadMessage:
    """An answer without the addresses that its sender, who is met at `met_at`, cannot know."""
    if met_at is not None and ranges_of(met_at) is None:
        return answer
    return replace(answer, closer=_public(answer.closer), providers=_public(answer.providers))


def _public(contacts: tuple[Contact, ...]) -> tuple[Contact, ...]:
    return tuple(
        Contact(contact.peer, tuple(address for address in contact.addresses if ranges_of(address) is not None))
        for contact in contacts
    )
