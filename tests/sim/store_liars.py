"""Members of a simulated store that lie. Each hears all gossip, keeps no rule, and acts every second or so."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from shoal.crdt.dots import Writer
from shoal.crdt.exchange_messages import Compared, ShortHead
from shoal.crdt.operation import Operation, Stretch, Taken, genesis, seal
from shoal.transport.gossip import OFFERS_MAX, message_id
from shoal.transport.gossip_service import OFFER, PUSH, SUBSCRIBE, Handover, Ids, Topics, Wants
from shoal.transport.identity import Identity, public_key_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode

from .store_node import DONE, TOPIC, Setting

ACT_S: Final = (0.5, 1.5)
HEARD_MAX: Final = 500
GROUND: Final = 1000  # proofs of one fork, made beforehand
FORKED_AT: Final = 6  # the number of a forker's operation that has a second


class Liar:
    """What all liars can do. `act` is what this one does."""

    def __init__(self, setting: Setting, key: Identity, act: "Act") -> None:
        self.key = key
        self.peer_id = key.peer_id
        self.writer = Writer(key.public_key)
        self.network = setting.network
        self.draw = random.Random(key.peer_id)
        self.neighbours: list[PeerId] = []
        self.heard: list[bytes] = []  # batches
        self.is_silent = False  # answers nothing but gossip's first question
        self.is_mad = False  # answers with anything
        self.is_boastful = False  # answers comparisons with heads that do not exist
        self.turn = 0
        self.prepared: list[Stretch] = []
        self._swarm = setting.swarm
        self.act = act
        self._acts = False  # yet

    def connected(self, peer: PeerId) -> None:
        self.neighbours.append(peer)
        self.call(peer, SUBSCRIBE.name, encode(Topics([TOPIC])))
        if not self._acts:
            self._acts = True
            self.network.after(ACT_S, self._take_turn)

    def disconnected(self, peer: PeerId) -> None:
        self.neighbours.remove(peer)

    def answer(self, peer: PeerId, method: str, data: bytes) -> bytes | None:
        if method == PUSH.name and len(self.heard) < HEARD_MAX:
            handover = decode(data, Handover, PUSH.request_bytes_max)
            if not isinstance(handover, Malformed):
                self.heard.append(handover.data)
        if method == SUBSCRIBE.name:
            return DONE
        if self.is_silent:
            return None
        if self.is_mad:
            return self.noise(200)
        if self.is_boastful and method.endswith("/compare"):
            claims = (ShortHead(self.draw.randbytes(32), 2**40, self.draw.randbytes(16), False) for _ in range(20))
            theirs = ShortHead(public_key_of(peer) or b"", 2**40, self.draw.randbytes(16), False)
            own = ShortHead(self.writer, 2**40, self.draw.randbytes(16), True)
            return encode(Compared((), (own, *claims), theirs, is_whole=False))
        if method == OFFER.name:
            ids = decode(data, Ids, OFFER.request_bytes_max)
            return None if isinstance(ids, Malformed) else encode(Wants(ids.ids, []))
        return DONE

    # For acts.

    def call(self, peer: PeerId, method: str, data: bytes) -> None:
        self.network.call(self, peer, method, data, lambda _: None)

    def tell(self, peers: Sequence[PeerId], *stretches: Stretch) -> None:
        for stretch in stretches:
            self.push(peers, stretch.data)

    def push(self, peers: Sequence[PeerId], batch: bytes) -> None:
        for peer in peers:
            self.call(peer, PUSH.name, encode(Handover(TOPIC, batch)))

    def chain(self, *operations: Operation, first: int = 1, previous: bytes | None = None) -> Stretch:
        return seal(self.key, self._swarm, first, previous or genesis(self._swarm, self.writer), operations)

    def noise(self, most: int) -> bytes:
        return self.draw.randbytes(self.draw.randint(0, most))

    def _take_turn(self) -> None:
        self.turn += 1
        self.act(self)
        self.network.after(ACT_S, self._take_turn)


Act = Callable[[Liar], None]


def add(value: bytes) -> Operation:
    return Operation("set", ("0",), value)


def forks(liar: Liar) -> None:
    """One history for one half of its neighbours, another for the other, each going on and on."""
    if liar.turn > 10:
        return
    base = liar.chain(*(add(b"base") for _ in range(FORKED_AT - 1)))
    liar.tell(liar.neighbours, base)
    for side in (0, 1):
        peers = liar.neighbours[side::2]
        twins = [add(bytes([side])) for _ in range(liar.turn)]
        liar.tell(peers, liar.chain(*twins, first=FORKED_AT, previous=base.hashes[-1]))


def floods(liar: Liar) -> None:
    """Far more operations than the rules let it write, and the same again in other batches."""
    liar.push(liar.neighbours, liar.chain(*(add(bytes(2)) for _ in range(200))).data)
    for _ in range(40):
        previous = liar.prepared[-1].hashes[-1] if liar.prepared else None
        liar.prepared.append(liar.chain(add(bytes(2)), first=len(liar.prepared) + 1, previous=previous))
    liar.tell(liar.neighbours, *liar.prepared[-40:])


def replays(liar: Liar) -> None:
    """What others wrote, again and again."""
    for batch in liar.draw.sample(liar.heard, min(len(liar.heard), 20)):
        liar.push(liar.neighbours, batch)
        liar.push(liar.neighbours, batch)


def misdates(liar: Liar) -> None:
    """Registers written at the beginning of time and at its end."""
    stamps = [0, 1, 2**62, 2**63 - 1] * 4
    registers = [Operation("own", (liar.peer_id,), b"x", stamp=stamp) for stamp in stamps]
    liar.tell(liar.neighbours, liar.chain(*registers))


def babbles(liar: Liar) -> None:
    """Bytes that mean nothing, or something else than they did."""
    liar.is_mad = True
    for peer in liar.neighbours:
        for method in (PUSH.name, OFFER.name, SUBSCRIBE.name):
            liar.call(peer, method, liar.noise(300))
        liar.call(peer, PUSH.name, encode(Handover(TOPIC, liar.noise(300))))
        if liar.heard:
            broken = bytearray(liar.draw.choice(liar.heard))
            broken[liar.draw.randrange(len(broken))] ^= 1 << liar.draw.randrange(8)
            liar.call(peer, PUSH.name, encode(Handover(TOPIC, bytes(broken))))
    liar.push(liar.neighbours, liar.noise(300))


def withholds(liar: Liar) -> None:
    """Says that it has all there is, and hands over nothing."""
    liar.is_silent = True
    ids = [message_id(TOPIC, batch) for batch in liar.heard[-OFFERS_MAX // 2 :]]
    ids += [liar.draw.randbytes(16) for _ in range(OFFERS_MAX - len(ids))]
    for peer in liar.neighbours:
        liar.call(peer, OFFER.name, encode(Ids(ids)))


def claims(liar: Liar) -> None:
    """To be far ahead, in its own chain and in those of writers that nobody knows."""
    liar.is_boastful = True


def breaks_rules(liar: Liar) -> None:
    """Operations that are properly signed, and refused."""
    other = liar.neighbours[0] if liar.neighbours else liar.peer_id
    wrong = [
        Operation("own", (other,), b"not mine"),
        Operation("nowhere", ("0",), b"x"),
        Operation("log", (liar.peer_id,), None, (Taken(b"", 1, bytes(8)),)),
        Operation("count", ("all",), b"no number"),
        Operation("set", ("0",), b"x", stamp=1),
        Operation("results", (liar.peer_id, "1"), b"no member", record=bytes([1]) * 32),
        Operation("results", (liar.peer_id, "1"), b"no record", record=bytes([9]) * 32),
    ]
    for operation in wrong:
        liar.tell(liar.neighbours, liar.chain(operation), liar.chain(add(b"x"), operation, add(b"x")))


def skips(liar: Liar) -> None:
    """Batches that follow others which never come, until no more of them are kept."""
    for _ in range(8):
        first = 2 + liar.draw.randrange(2**40)
        large = [add(bytes(8000)) for _ in range(4)]
        liar.tell(liar.neighbours, liar.chain(*large, first=first, previous=liar.draw.randbytes(32)))


def grinds(liar: Liar) -> None:
    """A fork, and then ever smaller proofs of it."""
    if not liar.prepared:
        twins = (liar.chain(add(number.to_bytes(2, "big"))) for number in range(GROUND))
        liar.prepared = sorted(twins, key=lambda twin: twin.hashes[-1])
    for _ in range(min(5, len(liar.prepared))):
        liar.tell(liar.neighbours, liar.prepared.pop())


ACTS: Final[Sequence[Act]] = (
    forks,
    floods,
    replays,
    misdates,
    babbles,
    withholds,
    breaks_rules,
    skips,
    grinds,
    claims,
)
