"""Looks at a running node, check by check: what is found goes out as it is found, and at the end one verdict.

Asks peers that are connected or are to be, and, where a person names a peer, dials the addresses known of it. Names are
looked up only where an address in use has one.
"""

import socket
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import trio

from shoal.transport.addresses import parse_endpoint, ranges_of
from shoal.transport.cards_service import Cards
from shoal.transport.port import Address, Missing, Place, Reach, Verdict, Why
from shoal.transport.wire import Malformed

from .clock_service import Clocks, compare_clocks
from .config import KEY_NAME
from .diagnosis import Cause, Check, Finding, State, diagnose, diagnosis_as_json, finding_as_json
from .local_checks import check_disk, check_network
from .node import Node
from .peer_checks import Target, examine_peers

REACH_S: Final = 6.0  # a node that has just started knows by then whether others can dial it
LOOK_S: Final = 0.1
NAMES_MAX: Final = 16
NAME_S: Final = 2.5
MISSING_MAX: Final = 8  # told one by one
STRANGERS_MAX: Final = 4  # of the DHT, tried where nobody is connected
PROBE_S: Final = 3.0
SILENT: Final = (Why.TIMED_OUT, Why.NO_ROUTE)


class Examination:
    """One, as an `EventSource`: what it is about to do, each finding, and the verdict; after that nothing."""

    def __init__(self, node: Node, target: Target | None) -> None:
        self._steps = _steps(node, target)
        self._findings: list[Finding] = []
        self._is_over = False

    async def next(self) -> object:
        if self._is_over:
            await trio.sleep_forever()
        step = await anext(self._steps, None)
        if step is None:
            self._is_over = True
            return {"diagnosis": diagnosis_as_json(diagnose(self._findings))}
        if isinstance(step, Finding):
            self._findings.append(step)
            return {"finding": finding_as_json(step)}
        return {"doing": step}


async def _steps(node: Node, target: Target | None) -> AsyncGenerator[Finding | str, None]:
    transport = node.transport
    data_dir, missing = node.setup.data_dir, transport.missing()
    yield Finding(Check.NODE, State.OK, f"runs in {data_dir}")
    yield Finding(Check.KEY, State.OK, f"{KEY_NAME} is that of {node.identity.peer_id}")
    yield check_disk(data_dir)
    yield _port(transport.addresses())
    yield "asking connected peers for the time"
    clocks = await compare_clocks(transport)
    yield check_network(is_anybody_there=bool(clocks.answered))
    yield _ipv6()
    yield "looking whether anybody answers"
    for finding in await _peers(node, clocks, missing):
        yield finding
    yield _clock(clocks)
    yield await _names(node, missing, target)
    if transport.reach().verdict is Verdict.UNKNOWN:
        yield "waiting for others to dial this node"
    reach = await _settled_reach(node)
    for finding in reach_findings(reach, Cards().all()):
        yield finding
    for finding in _swarms(node):
        yield finding
    if target is not None:
        async for step in examine_peers(node, target):
            yield step


def _port(addresses: Iterable[Address]) -> Finding:
    endpoints = [parse_endpoint(each) for each in addresses]
    ports = {each.port for each in endpoints if not isinstance(each, Malformed) and each.relay is None}
    if not ports:
        return Finding(Check.PORT, State.WARNING, "this node listens nowhere: it only dials", Cause.PORT)
    return Finding(Check.PORT, State.OK, f"listens at {', '.join(map(str, sorted(ports)))}")


def _ipv6() -> Finding:
    if "ip6" in Cards().families():
        return Finding(Check.IPV6, State.OK, "leads out of this machine")
    return Finding(Check.IPV6, State.SKIPPED, "this network has none")


async def _peers(node: Node, clocks: Clocks, missing: tuple[Missing, ...]) -> list[Finding]:
    """Who is there, of those who should be."""
    gone = [_missing(each) for each in missing[:MISSING_MAX]]
    if len(missing) > MISSING_MAX:
        words = f"{len(missing) - MISSING_MAX} more are missing: `shoal peers`"
        gone.append(Finding(Check.PEERS, State.WARNING, words, Cause.MISSING))
    if clocks.answered:
        known = f"{len(node.dht.contacts())} known in the DHT"
        words = f"{len(node.transport.connections())} connected, {len(clocks.answered)} of {len(clocks.asked)} answered"
        return [Finding(Check.PEERS, State.OK, f"{words}; {known}"), *gone]
    if clocks.asked:
        words = f"none of the {len(clocks.asked)} connected peers answers"
        return [Finding(Check.PEERS, State.FAILURE, words, Cause.CUT_OFF), *gone]
    failures = [failure.why for each in missing for failure in each.failures]
    failures += await _try_strangers(node)
    if not failures:
        words = "those who should be are dialed just now" if missing else "nobody is known who should be"
        return [Finding(Check.PEERS, State.WARNING, words, Cause.ALONE), *gone]
    if all(why in SILENT for why in failures):
        return [Finding(Check.PEERS, State.FAILURE, "nobody who is known answers", Cause.CUT_OFF), *gone]
    return [Finding(Check.PEERS, State.FAILURE, "none of those who should be is connected", Cause.MISSING), *gone]


def _missing(missing: Missing) -> Finding:
    words = "; ".join(f"{each.address.partition('/p2p/')[0]} {each.reason}" for each in missing.failures)
    return Finding(Check.PEERS, State.WARNING, words or "not dialed yet", Cause.MISSING, missing.peer)


async def _try_strangers(node: Node) -> list[Why]:
    """Where nobody is connected: why those whom the DHT knows do not answer. One that does makes it no failure."""
    found: list[Why] = []

    async def probe(address: Address) -> None:
        answer = await node.transport.probe(address, timeout_s=PROBE_S)
        found.append(Why.REFUSED if answer is None else answer.why)

    async with trio.open_nursery() as nursery:
        for contact in node.dht.contacts()[:STRANGERS_MAX]:
            for address in contact.addresses[:1]:
                nursery.start_soon(probe, address)
    return found


def _clock(clocks: Clocks) -> Finding:
    if not clocks.ahead_s:
        return Finding(Check.CLOCK, State.SKIPPED, "nobody is there to compare with")
    if clocks.is_off:
        return Finding(Check.CLOCK, State.FAILURE, clocks.words, Cause.CLOCK)
    return Finding(Check.CLOCK, State.OK, clocks.words)


async def _names(node: Node, missing: tuple[Missing, ...], target: Target | None) -> Finding:
    """Whether those names can be looked up that addresses in use have."""
    config = node.setup.config
    texts = [*config.stay_connected_to, *config.relays]
    texts += [address for each in missing for address in each.addresses]
    texts += [] if target is None else [address for addresses in target.given.values() for address in addresses]
    endpoints = [parse_endpoint(text) for text in texts]
    hosts = dict.fromkeys(
        each.host for each in endpoints if not isinstance(each, Malformed) and each.kind not in ("ip4", "ip6")
    )
    if not hosts:
        return Finding(Check.NAMES, State.SKIPPED, "no address in use has a name")
    lost = [host for host in list(hosts)[:NAMES_MAX] if not await _is_known(host)]
    if not lost:
        return Finding(Check.NAMES, State.OK, f"{', '.join(list(hosts)[:NAMES_MAX])} can be looked up")
    state = State.FAILURE if len(lost) == min(len(hosts), NAMES_MAX) else State.WARNING
    return Finding(Check.NAMES, state, f"{', '.join(lost)} cannot be looked up", Cause.NO_NAMES)


async def _is_known(host: str) -> bool:
    with trio.move_on_after(NAME_S):
        try:
            return bool(await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            return False
    return False


async def _settled_reach(node: Node) -> Reach:
    """After a moment for others to dial this node, where anybody is connected who could."""
    with trio.move_on_after(REACH_S):
        while node.transport.reach().verdict is Verdict.UNKNOWN and any(  # noqa: ASYNC110
            not each.is_relayed and ranges_of(each.address) is not None for each in node.transport.connections()
        ):
            await trio.sleep(LOOK_S)
    return node.transport.reach()


def reach_findings(reach: Reach, local_ips: frozenset[str]) -> list[Finding]:
    """Whether others can dial this node, and what helps where they can't."""
    is_private = reach.verdict is Verdict.PRIVATE
    is_helped = any(each.is_held for each in reach.relays)
    state = State.SKIPPED if reach.verdict is Verdict.UNKNOWN else State.OK
    cause = Cause.FINE
    if is_private:
        state = State.WARNING if is_helped else State.FAILURE
        is_translated = not set(reach.outside) <= local_ips
        cause = Cause.ROUTER if is_translated else Cause.FIREWALL
    words = f"{reach.verdict.value}: {reach.reason}"
    seen = f"; others see {', '.join(reach.outside)}" if reach.outside else ""
    findings = [Finding(Check.REACH, state, words, cause)]
    findings.append(Finding(Check.NAT, State.OK if reach.outside else State.SKIPPED, f"{reach.nat}{seen}"))
    findings.append(Finding(Check.MAPPING, State.OK if reach.is_port_mapped else State.SKIPPED, reach.port_mapping))
    return [*findings, *_relays(reach.relays, is_private=is_private)]


def _relays(relays: tuple[Place, ...], *, is_private: bool) -> list[Finding]:
    if not relays:
        if is_private:
            return [Finding(Check.RELAYS, State.FAILURE, "this node is to be reached through none", Cause.RELAYS)]
        return [Finding(Check.RELAYS, State.SKIPPED, "this node uses none")]
    lost = State.WARNING if any(each.is_held for each in relays) else State.FAILURE
    return [
        Finding(Check.RELAYS, State.OK, each.reason, subject=each.relay)
        if each.is_held
        else Finding(Check.RELAYS, lost if is_private else State.WARNING, each.reason, Cause.RELAYS, each.relay)
        for each in relays
    ]


def _swarms(node: Node) -> list[Finding]:
    """Whether each swarm's other members are there."""
    connected = {each.peer for each in node.transport.connections()}
    findings: list[Finding] = []
    for joined in node.swarms.all():
        name = joined.spec.name
        if joined.service is None:
            words = joined.problem or "it does not run yet"
            findings.append(Finding(Check.SWARM, State.SKIPPED, words, subject=name))
            continue
        others = [member.peer for member in joined.service.status().members]
        here = sum(peer in connected for peer in others)
        words = f"{here} of {len(others)} other members are connected"
        if others and not here:
            findings.append(Finding(Check.SWARM, State.WARNING, words, Cause.NO_MEMBERS, name))
        else:
            findings.append(Finding(Check.SWARM, State.OK, words if others else "it has no other member", subject=name))
    return findings
