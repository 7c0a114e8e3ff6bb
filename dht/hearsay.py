"""Which of the addresses that a peer tells, of others and of itself, are worth dialing.

What a malicious peer may tell: any addresses. What it cannot do: turn nodes all over the world against what stands
behind their owners' routers. Private and loopback addresses are taken only from a peer that is met at one itself; from
afar they could not be right, not even of itself: who has no other is a client for those who meet it in public.
"""

from dataclasses import replace

from shoal.transport.port import Address, PeerId

from .contacts import Contact, ranges_of
from .messages import KadMessage
from .peer_records import addresses_in


def worth_dialing(answer: KadMessage, met_at: Address | None) -> KadMessage:
    """An answer without the addresses that its sender, who is met at `met_at`, cannot know."""
    return replace(answer, closer=_worth_of(answer.closer, met_at), providers=_worth_of(answer.providers, met_at))


def own_addresses(sender_record: bytes, sender: PeerId, met_at: Address | None) -> tuple[Address, ...]:
    """Where `sender`, who is met at `met_at`, says that it listens, as far as others could reach it there."""
    return worth_of(addresses_in(sender_record, sender), met_at)


def worth_of(addresses: tuple[Address, ...], met_at: Address | None) -> tuple[Address, ...]:
    """Those of `addresses` that a peer met at `met_at` can know."""
    if met_at is not None and ranges_of(met_at) is None:
        return addresses
    return tuple(address for address in addresses if ranges_of(address) is not None)


def _worth_of(contacts: tuple[Contact, ...], met_at: Address | None) -> tuple[Contact, ...]:
    return tuple(Contact(contact.peer, worth_of(contact.addresses, met_at)) for contact in contacts)
