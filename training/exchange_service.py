"""The round engine's mouth: says to every connected peer what the cores want said, and asks them. A shell: it
decides nothing.

One talker task per connected peer empties that peer's outbox, so a slow or frozen peer holds up nobody else.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

import trio

from shoal.transport.blobs import BlobRef
from shoal.transport.port import GOSSIP_BYTES_MAX, Address, Code, PeerConnected, PeerId, Refusal
from shoal.transport.wire import ADDRESSES_MAX, encode

from .answers_service import Answers, Cores, Gossiped
from .calls import (
    ASK_MAX,
    BALLOTS_MAX,
    HELD_MAX,
    PROTOCOL_VERSION,
    AskContributions,
    AskHead,
    AskHistory,
    AskLog,
    AskProof,
    AskStore,
    Ballots,
    Calls,
    Have,
    Hello,
    Offer,
    TellHead,
    Words,
    topic,
)
from .effects import Effect, Observe
from .events import Problem
from .history import Made
from .means import Means
from .members import CHANGES_TOLD_MAX, Change
from .outbox import Kind
from .platform_service import platform_of
from .records import Offered, Presence, Present, Standing, open_contribution
from .skipping import Proof
from .talker_service import OFFERS_KEPT, Talker
from .votes import Ballot, Decided

ANSWER_S = 5.0  # a peer that takes longer for a small message counts as silent
PROOF_S = 60.0  # to fetch 4 MiB over a thin line
KEPT_MAX = 64  # connections a member keeps up of its own; beyond, it relies on others dialing it, and on gossip
COLLECT_FROM_MAX = 8  # members asked in turn for contributions that a proposal takes: the proposer has them, or lies


class Exchange:
    """One swarm's conversations.

    Args:
        do: carries out effects.
        look_soon: has the core look at what has changed.
        meet: lets the store meet a member.
    """

    def __init__(
        self,
        means: Means,
        cores: Cores,
        do: Callable[[list[Effect]], None],
        look_soon: Callable[[], None],
        meet: Callable[[PeerId], None],
        bytes_per_s: Callable[[], int],
    ) -> None:
        self._swarm = swarm = means.swarm
        self._transport = means.transport
        self._keeping = means.keeping
        self._expects = means.expects
        self._meet = meet
        self._bytes_per_s = bytes_per_s
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._do = do
        self._look_soon = look_soon
        self._answers = Answers(means.signed_spec, cores, self, do, means.workers)
        self._calls = Calls(swarm)
        self._talkers: dict[PeerId, Talker] = {}
        self._kept: dict[PeerId, tuple[Address, ...]] = {}
        self._presence: Presence | None = None
        self._own_offers: deque[Offered] = deque(maxlen=OFFERS_KEPT)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Talk and answer until cancelled."""
        self._answers.serve(self._transport)
        try:
            with self._transport.subscribe(topic(self._swarm), self._answers.on_gossip):
                await self._talk_with_all(task_status)
        finally:
            self._answers.stop_serving(self._transport)
            self._keeping.release_all(self._swarm)

    async def _talk_with_all(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery, self._transport.events() as events:
            task_status.started()
            async for event in events:
                self._drop(event.peer)
                if isinstance(event, PeerConnected):
                    knows = self._expects(event.peer) or self._roster.is_member(event.peer)
                    talker = self._talkers[event.peer] = Talker(trio.current_time(), is_acquainted=knows)
                    nursery.start_soon(self._talk, event.peer, talker)

    def stand(self, standing: Standing, sequence: int) -> Presence:
        """Say from now on that this member stands so, under this sequence of its presence."""
        self._presence = Presence(sequence, standing, self._addresses())
        self._want(Kind.HELLO, self._roster.connected())
        return self._presence

    def has_moved(self) -> bool:
        """Whether the addresses last said are no longer this node's."""
        return self._presence is not None and self._presence.addresses != self._addresses()

    def introduce(self, members: Iterable[Present]) -> None:
        """Members that the store tells of: find them."""
        for present in members:
            self._roster.hear(present)
            if not self._roster.is_connected(present.member):
                self.greet(present.member)  # it may have been connected as a stranger
        self.keep_members()

    def greet(self, peer: PeerId) -> None:
        """Say hello to a peer that is said to be a member, if it is connected."""
        self._want(Kind.HELLO, (peer,))

    def offer(self, offered: Offered) -> None:
        """Bring this member's contribution to the others."""
        self._own_offers.append(offered)
        for talker in self._talkers.values():
            talker.offers.append(offered)
        self._want(Kind.OFFER, self._roster.connected())
        if self._roster.is_anybody_apart():  # else gossip would bring everybody again what they have, many times over
            self._publish(Gossiped.CONTRIBUTION, offered.envelope)

    def say(self, ballot: Ballot, peer: PeerId | None) -> None:
        """Bring a ballot to all connected voters of its round, who may have none in the next; or to one peer."""
        electorate = self._rounds.voters(ballot.round)
        peers = (each for each in self._roster.connected() if electorate.votes(each)) if peer is None else (peer,)
        for each in peers:
            talker = self._talkers.get(each)
            if talker is not None:
                talker.put(ballot)
                self._want(Kind.BALLOTS, (each,))
        if peer is None and self._roster.is_anybody_apart():
            self._publish(Gossiped.BALLOT, encode(Ballots((ballot,))))

    def spread(self, changes: tuple[Change, ...]) -> None:
        """Tell all members what somebody wants changed, those too that are met later."""
        self._want(Kind.WORDS, self._roster.connected())
        self._publish(Gossiped.WORDS, encode(Words(changes[:CHANGES_TOLD_MAX])))

    def announce(self) -> None:
        """Say where this member stands and what it holds, to those who do not know it anyway."""
        self._want(Kind.HAVE, (peer for peer in self._roster.connected() if self._rounds.owes_have(peer)))

    def welcome(self, peer: PeerId) -> None:
        """A member that was not connected before hears everything again."""
        if peer in self._talkers:
            talker = self._talkers[peer]
            talker.outbox.meet(trio.current_time())
            talker.offers.extend(offered for offered in self._own_offers if offered not in talker.offers)
            self._meet(peer)
        for kind in (Kind.WORDS, Kind.OFFER, *([Kind.HAVE] if self._rounds.has_begun else [])):
            self._want(kind, (peer,))

    def hello(self, peer: PeerId) -> Hello | Refusal:
        """This member's hello to `peer`, also as an answer to its."""
        if self._presence is None:
            return Refusal(Code.BUSY, "this member is just starting")
        yours = self._rounds.newest_votes(peer)[:BALLOTS_MAX]
        return Hello(PROTOCOL_VERSION, self._presence, self._rounds.head, platform_of(), yours)

    def keep_members(self) -> None:
        """Stay connected to all members, up to a bound."""
        wanted = self._roster.addresses()
        for peer in [peer for peer in self._kept if peer not in wanted]:
            del self._kept[peer]
            self._keeping.release(self._swarm, peer)
        for peer in sorted(wanted):
            is_news = self._kept.get(peer) != wanted[peer]
            if is_news and (peer in self._kept or len(self._kept) < KEPT_MAX):
                self._kept[peer] = wanted[peer]
                self._keeping.keep(self._swarm, peer, wanted[peer])

    def has_ballots(self) -> bool:
        """Whether there are votes that have yet to be said to somebody."""
        return any(talker.outbox.is_unsaid(Kind.BALLOTS) for talker in self._talkers.values())

    async def farewell(self, sequence: int) -> Presence:
        """Say goodbye to the connected members, each once."""
        peers = self._roster.connected()
        presence = self.stand(Standing.LEFT, sequence)
        async with trio.open_nursery() as nursery:
            for peer in peers:
                hello = self.hello(peer)
                if isinstance(hello, Hello):
                    nursery.start_soon(self._say_goodbye, peer, hello)
        return presence

    async def ask_log(self, peer: PeerId, round: int) -> tuple[Decided, ...]:
        """The records from `round` on, as many as `peer` tells at once."""
        reply = await self._transport.request(peer, self._calls.log, AskLog(round), timeout_s=ANSWER_S)
        return () if isinstance(reply, Refusal) else reply.log

    async def ask_proof(self, peer: PeerId, record: bytes) -> Proof | None:
        """The way from this record to one near the newest, as `peer` tells it; to be verified."""
        reply = await self._transport.request(peer, self._calls.proof, AskProof(record), timeout_s=PROOF_S)
        return None if isinstance(reply, Refusal) else reply.proof

    async def ask_history(self, peer: PeerId, first: int, last: int) -> tuple[Made, ...] | Refusal:
        """What the rounds from `first` on took, as many as `peer` tells at once; to be verified."""
        reply = await self._transport.request(peer, self._calls.history, AskHistory(first, last), timeout_s=PROOF_S)
        return reply if isinstance(reply, Refusal) else reply.rounds

    async def ask_head(self, peer: PeerId) -> TellHead | None:
        """Where `peer` stands, with the proof and the checkpoint."""
        reply = await self._transport.request(peer, self._calls.head, AskHead(), timeout_s=ANSWER_S)
        return reply if isinstance(reply, TellHead) else None

    async def ask_store(self, peer: PeerId, digest: bytes) -> BlobRef | None:
        """The blob with this snapshot of the store, if `peer` says it has it."""
        reply = await self._transport.request(peer, self._calls.store, AskStore(digest), timeout_s=ANSWER_S)
        return None if isinstance(reply, Refusal) else reply.snapshot

    async def collect(self, missing: tuple[bytes, ...], holders: Iterable[PeerId]) -> tuple[Offered, ...]:
        """As many of these contributions as `holders`, asked in turn, have."""
        found: dict[bytes, Offered] = {}
        for peer in islice(holders, COLLECT_FROM_MAX):
            while rest := [hash for hash in missing if hash not in found][:ASK_MAX]:
                request = AskContributions(tuple(rest))
                reply = await self._transport.request(peer, self._calls.contributions, request, timeout_s=ANSWER_S)
                if isinstance(reply, Refusal):
                    break
                opened = [open_contribution(envelope, self._swarm) for envelope in reply.contributions]
                useful = {one.hash: one for one in opened if isinstance(one, Offered) and one.hash in rest}
                if not useful:
                    break
                found |= useful
        return tuple(found[hash] for hash in missing if hash in found)

    def _addresses(self) -> tuple[Address, ...]:
        return tuple(self._transport.addresses()[:ADDRESSES_MAX])

    def _want(self, kind: Kind, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            talker = self._talkers.get(peer)
            if talker is not None:
                talker.outbox.want(kind)
                talker.wake.set()

    def _drop(self, peer: PeerId) -> None:
        """The peer disconnected, or connected anew."""
        talker = self._talkers.pop(peer, None)
        if talker is not None:
            talker.scope.cancel()
            self._roster.lose(peer, trio.current_time())
            self._look_soon()

    async def _talk(self, peer: PeerId, talker: Talker) -> None:
        """Say to `peer` whatever is due until it disconnects."""
        outbox = talker.outbox
        with talker.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    talker.wake = trio.Event()
                    kind = outbox.take(trio.current_time())
                    if kind is not None:
                        nursery.start_soon(self._deliver, peer, talker, kind)
                        await trio.lowlevel.checkpoint()  # tasks that begin together take their turns in any order
                        continue
                    with trio.move_on_at(outbox.wakes_at()):
                        await talker.wake.wait()

    async def _deliver(self, peer: PeerId, talker: Talker, kind: Kind) -> None:
        """Say this, and have the outbox know how it ended."""
        outbox = talker.outbox
        refusal = await self._say(peer, talker, kind)
        talker.wake.set()
        if refusal is None:
            outbox.sent(kind)
            return
        if refusal.code is Code.NEEDS_NEWER:
            text = f"{peer} speaks a newer version: this swarm needs a newer Shoal"
            self._do([Observe(Problem(text))])
        if refusal.code in (Code.UNKNOWN_METHOD, Code.NEEDS_NEWER):
            outbox.dropped(kind)
            return
        if refusal.code is Code.REFUSED:
            outbox.want(Kind.HELLO)  # it does not know this member, or no longer
        if refusal.code in (Code.DEADLINE_EXCEEDED, Code.UNREACHABLE):
            self._miss(peer)
        outbox.failed(kind, trio.current_time())

    async def _say(self, peer: PeerId, talker: Talker, kind: Kind) -> Refusal | None:
        """None also when there is nothing to say any more."""
        calls, request = self._calls, self._transport.request
        match kind:
            case Kind.HELLO:
                return await self._say_hello(peer)
            case Kind.BALLOTS:
                ballots = talker.take(self._rounds.round)
                if not ballots:
                    return None
                reply = await request(peer, calls.ballots, Ballots(ballots), timeout_s=ANSWER_S)
                talker.ended(ballots, have_arrived=not isinstance(reply, Refusal))
            case Kind.WORDS:
                words = self._rounds.words.fitting(self._rounds.position)[:CHANGES_TOLD_MAX]
                if not words:
                    return None
                reply = await request(peer, calls.words, Words(words), timeout_s=ANSWER_S)
            case Kind.OFFER:
                if not talker.offers:
                    return None
                offered = talker.offers[0]
                reply = await request(peer, calls.offer, Offer(offered.envelope), timeout_s=ANSWER_S)
                if not isinstance(reply, Refusal) or reply.code is Code.MALFORMED:
                    talker.said(offered)
            case Kind.HAVE:
                rounds = self._rounds
                have = Have(rounds.head, rounds.held()[:HELD_MAX], rounds.is_idle, self._bytes_per_s())
                reply = await request(peer, calls.have, have, timeout_s=ANSWER_S)
        if isinstance(reply, Refusal):
            return reply
        self._roster.tell(peer, reply.head)
        self._look_soon()
        return None

    async def _say_hello(self, peer: PeerId) -> Refusal | None:
        hello = self.hello(peer)
        if isinstance(hello, Refusal):
            return hello
        reply = await self._transport.request(peer, self._calls.hello, hello, timeout_s=ANSWER_S)
        return reply if isinstance(reply, Refusal) else self._answers.greeted(peer, reply)

    async def _say_goodbye(self, peer: PeerId, hello: Hello) -> None:
        await self._transport.request(peer, self._calls.hello, hello, timeout_s=1.0)

    def _miss(self, peer: PeerId) -> None:
        self._roster.miss(peer, trio.current_time())
        self._look_soon()

    def _publish(self, kind: Gossiped, envelope: bytes) -> None:
        """Gossip what is small enough; who misses it hears it directly."""
        if len(envelope) < GOSSIP_BYTES_MAX:
            self._transport.publish(topic(self._swarm), bytes([kind]) + envelope)
