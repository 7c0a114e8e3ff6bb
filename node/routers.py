"""What each kind of home router lets through, as rules for nftables.

In a router's namespace the interface `wan` leads to the internet and `lan` to its hosts. A packet from outside that
belongs to nothing is dropped, not refused: with a policy that accepts it, the kernel would remember the flow under the
port that the host inside is about to use, give that one another port, and no hole could be punched.

The kernel's masquerading keeps a host's port where it is free and maps it alike for all peers, but lets in only whom
the host has sent to: a port-restricted router. `fully-random` takes another port for each peer: a symmetric one. For
full-cone and address-restricted routers the rules remember each mapping, and lead strangers' packets back along it.
(Names of the kinds: RFC 3489, section 5; in the words of RFC 4787 full cone filters independently of the endpoint.)

IPv6 is not translated: of whatever kind a router is, there it is a firewall that lets answers in, as RFC 6092 says, and
ICMPv6, without which nothing goes (RFC 4890).
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Router(enum.Enum):
    """The kinds of routers there are in homes, and two ways to have none."""

    PUBLIC = "public"  # hosts with addresses of their own, reached by everybody
    FIREWALLED = "firewalled"  # the same behind a firewall that lets answers in
    FULL_CONE = "full_cone"
    ADDRESS_RESTRICTED = "address_restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    CGN_HOME = "cgn_home"  # a port-restricted router behind the provider's, carrier-grade, of the same kind
    RST_ROUTER = "rst_router"  # a port-restricted one that refuses by a TCP reset what it does not know

    @property
    def has_nat(self) -> bool:
        return self not in (Router.PUBLIC, Router.FIREWALLED)


@dataclass(frozen=True, slots=True)
class Way:
    """From one home's line to another's, through the core.

    Attributes:
        source, target: names of the core's interfaces.
        delay_ms: one way; None lets nothing pass.
    """

    source: str
    target: str
    delay_ms: int | None


LAN = "192.168.1"  # the addresses behind NAT, in every home
REMEMBERED_MAX = 65_535  # mappings of a full-cone router, permissions of an address-restricted one
_FORWARD = "filter hook forward priority filter"
_INPUT = "filter hook input priority filter"
_OUTBOUND = "nat hook postrouting priority srcnat"
_INBOUND = "nat hook prerouting priority dstnat"


def router_rules(
    router: Router, wan: str, *, hairpin: bool = False, passes_udp: bool = True, network6: str = ""
) -> str:
    """The rules of a router, for `nft -f`: they take the place of those it has.

    Args:
        wan: its address there.
        hairpin: whether hosts inside reach each other by the router's address and mapped ports; only with NAT.
        passes_udp: whether UDP passes, in either direction.
        network6: all that hosts inside may send from by IPv6; packets from other addresses go nowhere (RFC 2827).
    """
    barred = [] if passes_udp else ["meta l4proto udp drop"]
    if network6:
        barred.append(f'iifname "lan" ip6 saddr != {network6} drop')
    if router is Router.PUBLIC:
        return _table(_chain("forward", _FORWARD, barred))
    refusal = ["meta l4proto tcp reject with tcp reset"] if router is Router.RST_ROUTER else []
    known = "ct state established,related accept"
    closed = [f'iifname "wan" {rule}' for rule in [*refusal, "drop"]]
    icmp = "meta l4proto ipv6-icmp accept"
    through = [*barred, known, icmp, "ct status dnat accept", *closed]
    parts = [_chain("forward", _FORWARD, through), _chain("input", _INPUT, [known, icmp, *closed])]
    if router.has_nat:
        parts += _translation(router, wan, hairpin=hairpin)
    return _table(*parts)


def core_rules(ways: Sequence[Way], losses: Mapping[str, float]) -> str:
    """The rules of the core, for `nft -f`: what is dropped, and in which queue the rest waits.

    They only mark packets with the queue: many kernels have no queues for nftables, but all have them for iptables.

    Args:
        losses: for each interface the share of packets that it loses, in either direction.
    """
    rules = [f'iifname "{way.source}" oifname "{way.target}" drop' for way in ways if way.delay_ms is None]
    for name, loss in losses.items():
        if loss:
            rules += [f'{end} "{name}" meta random < {round(loss * 2**32)} drop' for end in ("iifname", "oifname")]
    late = [f'"{way.source}" . "{way.target}" : {way.delay_ms}' for way in ways if way.delay_ms]
    if late:
        rules.append(f"meta mark set iifname . oifname map {{ {', '.join(late)} }}")
    return _table(_chain("forward", "filter hook forward priority raw", rules))  # before iptables' mangle


def _translation(router: Router, wan: str, *, hairpin: bool) -> list[str]:
    remember = ["add @mapped { meta l4proto . th sport : ip saddr . th sport }"]
    permit = ["add @permitted { meta l4proto . th sport . ip daddr }"]
    back = "dnat ip to meta l4proto . th dport map @mapped"
    transport = "meta l4proto { tcp, udp }"
    outbound = ["meta nfproto ipv6 accept"]
    inbound = ["meta nfproto ipv6 accept"]
    is_open = router in (Router.FULL_CONE, Router.ADDRESS_RESTRICTED)
    if is_open or hairpin:
        outbound += [f'oifname "wan" {transport} {rule}' for rule in remember]
    if router is Router.FULL_CONE:
        inbound.append(f'iifname "wan" {transport} {back}')
    if router is Router.ADDRESS_RESTRICTED:
        outbound += [f'oifname "wan" {transport} {rule}' for rule in permit]
        inbound.append(f'iifname "wan" {transport} meta l4proto . th dport . ip saddr @permitted {back}')
    if hairpin:
        inbound.append(f'iifname "lan" ip daddr {wan} {transport} {back}')
        outbound.append(f'oifname "lan" ip saddr {LAN}.0/24 ct status dnat snat ip to {wan}')
    outbound.append('oifname "wan" masquerade' + (" fully-random" if router is Router.SYMMETRIC else ""))
    return [
        _named("map", "mapped", "inet_proto . inet_service : ipv4_addr . inet_service"),
        _named("set", "permitted", "inet_proto . inet_service . ipv4_addr"),
        _chain("inbound", _INBOUND, inbound),
        _chain("outbound", _OUTBOUND, outbound),
    ]


def _named(kind: str, name: str, type_: str) -> str:
    return f"  {kind} {name} {{ type {type_}; flags dynamic; size {REMEMBERED_MAX}; }}\n"


def _chain(name: str, hook: str, rules: list[str]) -> str:
    return f"  chain {name} {{\n    type {hook};\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _table(*parts: str) -> str:
    return "table inet router\ndelete table inet router\ntable inet router {\n" + "".join(parts) + "}\n"
