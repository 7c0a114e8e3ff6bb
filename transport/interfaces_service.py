"""The addresses of this machine's network cards, as the system tells them."""

import ifaddr

LOOPBACK = ("127.0.0.1", "::1")


def interface_ips() -> frozenset[str]:
    """All of them but loopback's, IPv6 without zones. Raises OSError where no file can be opened."""
    ips = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return frozenset(ip.partition("%")[0] for ip in ips) - {*LOOPBACK}
