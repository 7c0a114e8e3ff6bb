"""The swarms of one node, with a store of blobs on disk."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from shoal.node.membership import Membership, SwarmFolder
from shoal.node.swarms import Hardware, Joined, Swarms, build_method
from shoal.training.pins import Pins
from shoal.training.spec import Spec, sign_spec, swarm_id
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.conditions import Conditions
from shoal.transport.identity import Identity
from shoal.transport.memory import Network

IDENTITY = Identity.from_seed(bytes(32))


def unheard(_: str, __: Mapping[str, object]) -> None:
    """What happens in a swarm."""


async def found_nobody(*_: Any) -> Any:
    raise NotImplementedError


async def test_what_was_kept_for_a_swarm_that_is_left_may_be_evicted_and_nothing_else(tmp_path: Path) -> None:
    specs = [Spec(creator=IDENTITY.peer_id, nonce=bytes(16), name=name) for name in ("left", "stays")]
    network = Network(0, Conditions(latency_s=0.0005, jitter_s=0.0), is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        transport, store = await network.open(IDENTITY.peer_id), BlobStore(tmp_path / "blobs", 2**20)
        blobs = BlobService(transport, store)
        await nursery.start(blobs.run)
        for spec in specs:
            for kind in ("state", "local", "round", "store"):
                label = Pins(swarm_id(spec), blobs).label(kind, 7)
                assert isinstance(await blobs.put([spec.name.encode(), kind.encode()], pin=label), BlobRef)
        build = partial(build_method, Hardware("cpu", 1))
        made = Swarms(tmp_path / "swarms", transport, blobs, IDENTITY, build, unheard, found_nobody)
        folder = SwarmFolder(tmp_path / "swarms", swarm_id(specs[0]))
        signed = sign_spec(specs[0], IDENTITY)
        folder.create(signed, Membership())
        joined = made._add(Joined(folder, signed, specs[0], Membership()))  # pyright: ignore[reportPrivateUsage]
        await made.leave(joined)
        left = {label.split("/")[0] for label in store.labels()}
        assert left == {swarm_id(specs[1])[:16].hex()}
        assert not folder.path.exists()
        nursery.cancel_scope.cancel()
