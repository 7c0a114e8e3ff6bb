"""The cast of a reflection: a victim that counts who connects, and a peer with many ids that has others dial it.

python tests/network/reflection_cast.py victim PORT
python tests/network/reflection_cast.py liar IDS CIRCUIT VICTIM [VICTIM ...]
"""

import json
import sys
from collections import Counter

import trio

from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Call, PeerId, Refusal
from shoal.transport.punching import DIALED_MAX, PUNCHED_MAX, Mapping, Offer
from shoal.transport.punching_service import PUNCH, Word

LIES_S = 25.0


async def be_victim(port: int) -> None:
    """Says how many have connected, whenever it is asked."""
    count = 0

    async def accept(stream: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        with trio.move_on_after(30):
            while await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, accept, port)
        print(json.dumps({"listens": port}), flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            print(json.dumps({"connections": count}), flush=True)


class Liar:
    """Offers somebody else's addresses as its own."""

    def __init__(self, victims: list[str]) -> None:
        addresses = [Address(victims[index % len(victims)]) for index in range(DIALED_MAX)]
        self._offer = Offer(Mapping.INDEPENDENT, tuple(addresses[:PUNCHED_MAX]), tuple(addresses))
        self.said: Counter[str] = Counter()

    async def lie(self, index: int, circuit: Address) -> None:
        peer = PeerId(circuit.rpartition("/p2p/")[2])
        async with open_host(Identity.from_seed(index.to_bytes(32, "big")), [], seed=index) as host:
            _have_no_paths(host)
            host.serve_stream(PUNCH, self._take_part)
            began = trio.current_time()
            while trio.current_time() < began + LIES_S:
                answer = await host.connect(circuit, timeout_s=10)
                if isinstance(answer, Refusal):
                    self.said[answer.message] += 1
                    await trio.sleep(1)
                    continue
                async with host.stream(peer, PUNCH, timeout_s=15) as call:
                    await self._lead(call)
                await trio.sleep(0.5)

    async def _lead(self, call: Call[Word, Word]) -> None:
        answer: Word | Refusal | None = None
        for word in (Word(self._offer), Word(None), Word(None)):
            await call.send(word)
            answer = await call.receive()
            if not isinstance(answer, Word):
                break
        self.said["done" if not isinstance(answer, Refusal) else answer.message] += 1

    async def _take_part(self, _: PeerId, call: Call[Word, Word]) -> Refusal | None:
        for word in (Word(self._offer), Word(None)):
            await call.receive()
            await call.send(word)
        await call.receive()
        await trio.sleep(2)
        return None


def _have_no_paths(host: Host) -> None:
    """Leave all attempts to the liar."""
    host._punching.paths.due = lambda now: []  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]


async def be_liar(ids: int, circuit: Address, victims: list[str]) -> None:
    liar = Liar(victims)
    async with trio.open_nursery() as nursery:
        for index in range(ids):
            nursery.start_soon(liar.lie, 1000 + index, circuit)
    print(json.dumps({"said": dict(liar.said)}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["victim", port]:
            trio.run(be_victim, int(port))
        case ["liar", ids, circuit, *victims]:
            trio.run(be_liar, int(ids), Address(circuit), victims)
        case _:
            sys.exit(__doc__)
