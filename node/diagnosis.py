"""From what was found, one verdict and one line of advice. A core: it looks at nothing itself.

A cause explains those after it: who is on no network reaches no relay, and no peer. So of all that is wrong the first
counts, in the order of `Cause`, and what is merely worth knowing counts after what is wrong. Two rules more: where
a person asks about a peer, it is not the answer that others cannot dial this node, or that other peers are missing; and
of a peer that was reached it does not matter at how many other addresses it was not.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final


class Check(enum.Enum):
    """What was looked at. The values are for people, and stand in the local API."""

    NODE = "node"
    KEY = "key"
    DIRECTORY = "directory"
    DISK = "disk"
    PORT = "port"
    NETWORK = "network"
    IPV6 = "ipv6"
    CLOCK = "clock"
    PEERS = "peers"
    NAMES = "names"
    REACH = "reach"
    NAT = "nat"
    MAPPING = "mapped port"
    RELAYS = "relays"
    SWARM = "swarm"
    ADDRESS = "address"
    CONNECTION = "connection"
    PUNCHING = "punching"
    ROUND_TRIP = "round trip"
    RATE = "rate"


class State(enum.Enum):
    """How a check went."""

    OK = "ok"
    SKIPPED = "skipped"  # it could not be done, or there is nothing to check
    WARNING = "warning"  # it works, but not as well as it could
    FAILURE = "failure"


class Cause(enum.Enum):
    """What is wrong; a cause explains those after it. The values are for people."""

    DIRECTORY = "the data directory cannot be used"
    KEY = "the key cannot be used"
    DISK = "the disk is full"
    NO_NETWORK = "this machine is on no network"
    CLOCK = "this machine's clock is wrong"
    PORT = "the node cannot listen at its port"
    NO_NODE = "no node is running"
    CUT_OFF = "nobody answers"
    NO_NAMES = "names cannot be looked up"
    FIREWALL = "a firewall lets nobody in"
    ROUTER = "a router lets nobody in"
    RELAYS = "no relay leads here"
    UNKNOWN_PEER = "no address of that peer is known"
    OTHER_PEER = "somebody else answers where that peer should be"
    MUTE = "that peer's machine is there, but its node does not answer"
    REFUSED = "that peer's machine or router refuses"
    SILENT = "that peer's addresses do not answer"
    NO_ROUTE = "no way leads to that peer"
    BEHIND_RELAY = "that peer is not at its relay"
    UNREACHED = "there is no connection with that peer"
    BROKEN_PATH = "the connection with that peer carries nothing"
    RELAYED = "the connection goes through a relay"
    NO_MEMBERS = "no other member of a swarm is connected"
    MISSING = "some peers do not answer"
    ALONE = "nobody is connected"
    FINE = "all is well"


ADVICE: Final = {
    Cause.DIRECTORY: "make the directory yours alone, or name another one with --data-dir",
    Cause.KEY: "put the key back from a copy; without one, move it away and start as somebody new",
    Cause.DISK: "make room on that disk, or lower disk_gb_max in the settings",
    Cause.NO_NETWORK: "join this machine to a network: see its Wi-Fi or cable, then ask again",
    Cause.CLOCK: "set this machine's clock, best by network time (NTP): what it signs is refused or put off until then",
    Cause.PORT: "stop the program that has the port, or choose another one with --listen",
    Cause.NO_NODE: "start it with `shoal node`, then ask again: the other checks need it running",
    Cause.CUT_OFF: "see whether this machine's internet works at all; if it does, a firewall stops what Shoal sends",
    Cause.NO_NAMES: "see this machine's DNS settings, or write addresses with numbers: /ip4/203.0.113.7/tcp/4011",
    Cause.FIREWALL: "let the node's port in through the firewall, or be reached through a relay: --relays ADDRESS",
    Cause.ROUTER: "forward the node's port in the router, or switch UPnP on there, or name a relay: --relays ADDRESS",
    Cause.RELAYS: "name another relay with --relays ADDRESS; any public node that runs with `--relay everybody` is one",
    Cause.UNKNOWN_PEER: "ask that peer for a fresh invite, or for an address from its `shoal status`",
    Cause.OTHER_PEER: "ask that peer for a fresh invite: its machine has another address now, or another key",
    Cause.MUTE: "wake that machine, or let that peer start its node anew",
    Cause.REFUSED: "let that peer start its node, and compare the port with its `shoal status`",
    Cause.SILENT: "let that peer run `shoal doctor`: it is off, has moved, or a firewall or router is in front of it",
    Cause.NO_ROUTE: "that peer's addresses are of other networks than this machine's: it needs a public one or a relay",
    Cause.BEHIND_RELAY: "let that peer run `shoal doctor`: it is off, or holds no place at the relay of its address",
    Cause.UNREACHED: "try again in a minute; if it stays so, let that peer run `shoal doctor`",
    Cause.BROKEN_PATH: "ask again: a connection that is dead is given up within half a minute",
    Cause.RELAYED: "nothing has to be done; for more speed, forward a port on one of the two sides",
    Cause.NO_MEMBERS: "let another member start its node, or join once more with a fresh invite",
    Cause.MISSING: "nothing has to be done: they are dialed again and again; `shoal doctor PEER` says more of one",
    Cause.ALONE: "join a swarm with an invite: `shoal swarm join INVITE`, or found one: `shoal swarm create`",
    Cause.FINE: "nothing has to be done",
}

_ORDER: Final = {cause: place for place, cause in enumerate(Cause)}
_GRAVITY: Final = {State.FAILURE: 0, State.WARNING: 1, State.SKIPPED: 2, State.OK: 2}
_OF_A_PEER: Final = {Check.ADDRESS, Check.CONNECTION, Check.PUNCHING, Check.ROUND_TRIP, Check.RATE}
_ELSEWHERE: Final = {Cause.FIREWALL, Cause.ROUTER, Cause.RELAYS, Cause.NO_MEMBERS, Cause.MISSING, Cause.ALONE}
_REFUTED: Final = {Cause.NO_NETWORK, Cause.CUT_OFF}  # by a peer that was reached


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check.

    Attributes:
        words: what was found, for people.
        cause: what is wrong, if something is.
        subject: what was looked at, where there are several: an address, a swarm.
    """

    check: Check
    state: State
    words: str
    cause: Cause = Cause.FINE
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict."""

    cause: Cause
    is_fine: bool  # it works, though perhaps not as well as it could
    words: str
    advice: str


def diagnose(findings: Iterable[Finding]) -> Diagnosis:
    """Exactly one verdict, whatever was found, in whatever order."""
    weighed = _weighed(list(findings))
    wrong = [each for each in weighed if each.cause is not Cause.FINE and _GRAVITY[each.state] < 2]
    if not wrong:
        return Diagnosis(Cause.FINE, True, Cause.FINE.value, ADVICE[Cause.FINE])
    first = min(wrong, key=lambda each: (_GRAVITY[each.state], _ORDER[each.cause], each.subject, each.words))
    subject = f"{first.subject}: " if first.subject else ""
    words = f"{first.cause.value} ({subject}{first.words})"
    return Diagnosis(first.cause, first.state is not State.FAILURE, words, ADVICE[first.cause])


def _weighed(findings: list[Finding]) -> list[Finding]:
    """The same, those that something else makes harmless no longer as failures."""
    is_about_peer = any(each.check in _OF_A_PEER for each in findings)
    is_broken = any(each.cause is Cause.BROKEN_PATH for each in findings)
    proof = {Check.ADDRESS} if is_broken else {Check.ADDRESS, Check.CONNECTION}
    is_reached = any(each.check in proof and _is_reached(each) for each in findings)

    def weigh(each: Finding) -> Finding:
        if each.check is Check.ADDRESS and is_reached and not _is_reached(each):
            return replace(each, state=State.SKIPPED)
        if is_about_peer and each.cause in _ELSEWHERE:
            return replace(each, state=State.SKIPPED)
        if each.state is State.FAILURE and is_reached and each.cause in _REFUTED:
            return replace(each, state=State.WARNING)
        return each

    return [weigh(each) for each in findings]


def _is_reached(finding: Finding) -> bool:
    """Of an address or a connection."""
    return finding.state is State.OK or (finding.state is State.WARNING and finding.cause is Cause.RELAYED)


def finding_as_json(finding: Finding) -> dict[str, Any]:
    is_clean = finding.cause is Cause.FINE
    return {
        "check": finding.check.value,
        "state": finding.state.value,
        "subject": finding.subject or None,
        "words": finding.words,
        "cause": None if is_clean else finding.cause.name.lower(),
    }


def diagnosis_as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "verdict": diagnosis.cause.name.lower(),
        "is_fine": diagnosis.is_fine,
        "words": diagnosis.words,
        "advice": diagnosis.advice,
    }
