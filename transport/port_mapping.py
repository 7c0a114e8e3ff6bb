"""One port at the home's router: whom to ask for it when, and what stands. A state machine without I/O.

A round asks by PCP, NAT-PMP and UPnP in this order, until one grants a port at a public address; the first two are a
datagram each way, and most routers know the third. What was granted is asked for again, by the same protocol, long
before it ends: that renews it, and is how a router that has restarted or has another address is noticed. When that
fails a whole round follows, and only if it brings nothing either there is no mapping any more. A round without success
is repeated, after pauses that double; a change of network begins one at once.

Effects come out of `due`, one at a time; the answer and the time go into `answered`. The same seed, events and times
give the same effects. Every answer leaves its reason, for people, in `reason` or `happened`.

What a malicious router, or who plays one in the local network, may do: grant anything, for any time, at any address,
take it back, and answer as fast or as slowly as it likes. What it achieves: this node tells others an address that is
not its own (its public address is for the router to know; whoever is there in truth is not this node, cannot prove to
be, and is dialed like any wrong address), and one question every RENEW_S_MIN.
"""

import enum
import hashlib
import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEASE_S: Final = 3600  # what is asked for; longer: a port that stays open behind a node that was killed
LEASE_S_MIN: Final = 10  # what is taken; shorter: questions for nothing
LEASE_S_MAX: Final = 2 * LEASE_S  # what is believed
RENEW_S_MIN: Final = 5.0  # the law for PCP: no more often than every 4 s (RFC 6887, section 11.2.1)
RETRY_S_MIN: Final = 30.0  # after a round without success; routers take a minute or two to start
RETRY_S_MAX: Final = 600.0  # and at most
PORTS_TRIED_MAX: Final = 4  # of a UPnP router where somebody else has the one we want
PORT_MIN: Final = 20_000  # of the others; below may be what people forward by hand
LATE_S: Final = 2.0  # how far a router's clock may lag behind ours before it counts as restarted
WORDS_MAX: Final = 200  # of what a router says, in what people read


class Protocol(enum.Enum):
    """How a router is asked."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


ORDER: Final = (Protocol.PCP, Protocol.NAT_PMP, Protocol.UPNP)
# How often a mapping is looked after. A router that restarts has forgotten it, and says so only when asked.
LOOK_S: Final = {Protocol.PCP: 30.0, Protocol.NAT_PMP: 30.0, Protocol.UPNP: 300.0}
# How long the answer may take. The sum of the last three is what a node without such a router waits for its reason.
PATIENCE_S: Final = {Protocol.PCP: 1.75, Protocol.NAT_PMP: 1.75, Protocol.UPNP: 4.0}
PATIENCE_AFTER_SILENCE_S: Final = 0.75  # with NAT-PMP: who was silent at the same port before will hardly answer now
FOR_EVER: Final = 0  # a lease of UPnP


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for an external port, now. It is also how a mapping is renewed."""

    protocol: Protocol
    external_port: int
    lease_s: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Let the router forget a mapping. Its answer does not matter."""

    protocol: Protocol
    external_port: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The router passes on what comes to this port.

    Attributes:
        host: its own address, as it says.
        lease_s: for how long; None: for ever.
        epoch_s: how long ago it started, as it says; None where the protocol does not tell.
    """

    host: str
    port: int
    lease_s: int | None
    epoch_s: int | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """Nobody answers."""


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """The router answers, and does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The port is somebody else's."""


@dataclass(frozen=True, slots=True)
class PermanentOnly:
    """The router knows no leases."""


@dataclass(frozen=True, slots=True)
class Homeless:
    """The router has no public address itself; the one that it has, if it says."""

    host: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Anything else, in the router's words."""

    why: str


Answer = Granted | Silent | OtherVersion | Taken | PermanentOnly | Homeless | Refused


@dataclass(frozen=True, slots=True)
class Mapping:
    """What stands: whoever dials `host` and `port` reaches this node's port.

    Attributes:
        expires_at: unless it is renewed; infinite where the router knows no leases.
    """

    host: str
    port: int
    protocol: Protocol
    expires_at: float


class PortMapping:
    """The mapping of one TCP port.

    Args:
        port: where this node listens, and the external port that it would like best.
        seed: of the other ports to try.
        protocols: those to ask by, in this order.
    """

    def __init__(self, port: int, seed: int, lease_s: int = LEASE_S, protocols: Sequence[Protocol] = ORDER) -> None:
        self.mapping: Mapping | None = None
        self.reason = "the router has not been asked yet"  # why there is none
        self.happened = ""  # what the last answer changed
        self._port = port
        self._seed = seed
        self._lease_s = lease_s
        self._is_for_ever = False  # this router's UPnP knows nothing else
        self._protocols = tuple(protocols)
        self._wanted_port = port  # what was granted last, or else the next to try
        self._asking: Ask | None = None
        self._left: list[Protocol] = []  # of this round; empty between rounds
        self._ports_tried = 0
        self._findings: dict[Protocol, Answer] = {}
        self._useless: GiveBack | None = None
        self._epoch: tuple[int, float] | None = None  # what the router said, and when
        self._pause_s = RETRY_S_MIN
        self._next_at = -math.inf

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        if self._asking is not None:
            return math.inf  # `answered` comes first
        return self._next_at if self._useless is None else -math.inf

    def due(self, now: float) -> Ask | GiveBack | None:
        """What to do now; tell `answered` how an Ask went."""
        if self._asking is not None:
            return None
        if self.mapping is not None and now >= self.mapping.expires_at:
            self._drop(f"{self.mapping.protocol.value}: the lease has ended")
            self._begin(now)
        if self._useless is not None:
            given, self._useless = self._useless, None
            return given
        if now < self._next_at:
            return None
        if not self._left:  # the pause is over, or it is time to renew
            self._left = [*self._protocols] if self.mapping is None else [self.mapping.protocol]
            self._findings, self._ports_tried = {}, 0
        if not self._left:
            self._next_at = math.inf
            self.reason = "no protocol to ask the router by"
            return None
        self._asking = self._ask(self._left[0])
        return self._asking

    def answered(self, ask: Ask, answer: Answer, now: float) -> None:
        """How an Ask went. One that a change of network has overtaken says nothing any more."""
        if ask is not self._asking:
            return
        self._asking = None
        if isinstance(answer, Granted):
            answer = self._sound(ask, answer)
        match answer:
            case Granted():
                self._granted(ask, answer, now)
            case PermanentOnly() if ask.protocol is Protocol.UPNP and ask.lease_s != FOR_EVER:
                self._is_for_ever = True
            case Taken() if self._ports_tried + 1 < PORTS_TRIED_MAX:
                self._ports_tried += 1
                self._wanted_port = self._another_port()
            case _:
                self._failed(ask.protocol, answer, now)

    def network_changed(self, now: float) -> None:
        """There may be another router now, or the same one in another mood."""
        self._asking = None
        self._epoch = None
        self._useless = None
        self._is_for_ever = False
        self._drop("the network has changed, and the router has not been asked since")
        self._begin(now)

    def ended(self) -> GiveBack | None:
        """What is to be given back at the end: also what was asked for and perhaps granted."""
        if self._asking is not None:
            return GiveBack(self._asking.protocol, self._asking.external_port)
        if self.mapping is not None:
            return GiveBack(self.mapping.protocol, self.mapping.port)
        return self._useless

    def _ask(self, protocol: Protocol) -> Ask:
        is_for_ever = self._is_for_ever and protocol is Protocol.UPNP
        was_silent = protocol is Protocol.NAT_PMP and isinstance(self._findings.get(Protocol.PCP), Silent)
        return Ask(
            protocol,
            self._wanted_port,
            lease_s=FOR_EVER if is_for_ever else self._lease_s,
            patience_s=PATIENCE_AFTER_SILENCE_S if was_silent else PATIENCE_S[protocol],
        )

    def _sound(self, ask: Ask, answer: Granted) -> Answer:
        """The same, or what is wrong with it. What is of no use is given back."""
        problem: Answer = answer
        if not is_public(answer.host):
            problem = Homeless(answer.host)
        elif not 0 < answer.port < 65_536:
            problem = Refused(f"it grants port {answer.port}, which is none")
        elif answer.lease_s is not None and answer.lease_s < LEASE_S_MIN:
            problem = Refused(f"it grants a port for {answer.lease_s} s, too short to be told to anybody")
        if problem is not answer:
            self._useless = GiveBack(ask.protocol, answer.port)
        return problem

    def _granted(self, ask: Ask, answer: Granted, now: float) -> None:
        lease_s = math.inf if answer.lease_s is None else min(answer.lease_s, LEASE_S_MAX)
        before, mapping = self.mapping, Mapping(answer.host, answer.port, ask.protocol, now + lease_s)
        has_restarted = self._note_epoch(answer.epoch_s, now)
        place = f"{answer.host}:{answer.port} by {ask.protocol.value}"
        if before is None:
            self.happened = f"mapped {place}"
        elif has_restarted and before.protocol is mapping.protocol:
            self.happened = f"mapped {place} anew: the router has started again"
        elif before.host != mapping.host:
            self.happened = f"mapped {place}: the router's address was {before.host}"
        elif (before.port, before.protocol) != (mapping.port, mapping.protocol):
            self.happened = f"mapped {place}: it was {before.port} by {before.protocol.value}"
        else:
            self.happened = f"renewed {place}"
        self.mapping, self.reason, self._wanted_port = mapping, "", mapping.port
        self._left, self._pause_s = [], RETRY_S_MIN
        self._next_at = now + renew_after_s(lease_s, ask.protocol)

    def _failed(self, protocol: Protocol, answer: Answer, now: float) -> None:
        """On to the next protocol, to a whole round, or to the pause before the next."""
        self._findings[protocol] = answer
        self._ports_tried = 0
        if isinstance(answer, Taken):
            self._wanted_port = self._port
        self._left = self._left[1:]
        is_renewal = self.mapping is not None and len(self._findings) == 1 and not self._left
        if isinstance(answer, Homeless):
            self._left = []  # it is the same router by any other name
        elif is_renewal and len(self._protocols) > 1:
            self.happened = f"not renewed by {protocol.value}: {self._words(answer)}"
            self._left = [other for other in self._protocols if other is not protocol]
        if self._left:
            return
        self._drop(self._verdict())
        self._next_at = now + self._pause_s
        self._pause_s = min(RETRY_S_MAX, 2 * self._pause_s)

    def _drop(self, reason: str) -> None:
        self.happened = f"no port is mapped: {reason}"
        self.mapping, self.reason = None, reason

    def _begin(self, now: float) -> None:
        """A whole round, at once."""
        self._left = []
        self._pause_s = RETRY_S_MIN
        self._next_at = now

    def _verdict(self) -> str:
        """The finding that tells a person most."""
        for kind in (Homeless, Refused, Taken, PermanentOnly):
            for protocol, answer in self._findings.items():
                if isinstance(answer, kind):
                    return self._words(answer) if kind is Homeless else f"{protocol.value}: {self._words(answer)}"
        names = [protocol.value for protocol in self._protocols]
        listed = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        return f"no router answers {listed}"

    def _words(self, answer: Answer) -> str:
        match answer:
            case Homeless(None):
                return "the router says that it has no public address: carrier-grade NAT or another router before it"
            case Homeless(str(host)):
                return f"the router's own address {host[:WORDS_MAX]} is not public: carrier-grade NAT or another router"
            case Refused(why):
                return f"the router refuses: {why[:WORDS_MAX]}"
            case Taken():
                return f"the router refuses: others have port {self._port} and those tried in its place"
            case PermanentOnly():
                return "the router refuses leases, and then wants nothing but leases"
            case _:
                return "no answer"

    def _note_epoch(self, epoch_s: int | None, now: float) -> bool:
        """Whether the router has restarted since it was asked last (RFC 6886, section 3.6: 7/8 for its slow clock)."""
        before, self._epoch = self._epoch, None if epoch_s is None else (epoch_s, now)
        if before is None or epoch_s is None:
            return False
        return epoch_s < before[0] + (now - before[1]) * 7 / 8 - LATE_S

    def _another_port(self) -> int:
        text = f"{self._seed}/{self._port}/{self._wanted_port}".encode()
        return PORT_MIN + int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") % (65_536 - PORT_MIN)


def renew_after_s(lease_s: float, protocol: Protocol) -> float:
    """When to ask again: halfway at the latest, and before a restart of the router has gone unnoticed for long."""
    return max(RENEW_S_MIN, min(lease_s / 2, LOOK_S[protocol]))


def is_public(host: str) -> bool:
    """Whether `host` is an IPv4 address that the whole internet can reach."""
    try:
        ip = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return ip.is_global and not ip.is_multicast
