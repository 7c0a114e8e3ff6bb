"""Connections that several swarms of one node want: none that lets go of a peer takes it away from the others."""

from collections.abc import Hashable

from shoal.transport.port import Address, PeerId, Transport


class Keeping:
    """One node's. Whoever wants connections calls itself by any value of its own."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._wanted: dict[PeerId, dict[Hashable, tuple[Address, ...]]] = {}  # by who wants it

    def keep(self, owner: Hashable, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """As `Transport.keep`; again, to replace the addresses that this owner knows."""
        owners = self._wanted.setdefault(peer, {})
        owners.pop(owner, None)  # the latest comes last
        owners[owner] = addresses
        self._dial(peer)

    def wants(self, owner: Hashable, peer: PeerId) -> bool:
        """Whether this owner keeps `peer`."""
        return owner in self._wanted.get(peer, {})

    def release(self, owner: Hashable, peer: PeerId) -> None:
        """This owner does not need `peer` any more."""
        owners = self._wanted.get(peer, {})
        if owners.pop(owner, None) is not None and not owners:
            del self._wanted[peer]
            self._transport.release(peer)
        elif owners:
            self._dial(peer)

    def release_all(self, owner: Hashable) -> None:
        """This owner is gone."""
        for peer in [peer for peer, owners in self._wanted.items() if owner in owners]:
            self.release(owner, peer)

    def _dial(self, peer: PeerId) -> None:
        """Dial the addresses of all who want `peer`, the latest's first."""
        latest_first = reversed(self._wanted[peer].values())
        self._transport.keep(peer, tuple(dict.fromkeys(address for known in latest_first for address in known)))
