"""Snapshots of the store that a member holds, while it looks for the agreed one."""

from pathlib import Path

import trio

from shoal.crdt.compact import Snapshot, digest_of
from shoal.training.agreed import StoreMark
from shoal.training.compaction_service import SLOTS, Compactor
from shoal.training.records import Head, Presence, Present, Standing
from shoal.training.restoring_service import Ground, make_cores, open_archive, open_store
from shoal.training.state_service import Restored
from shoal.transport.blobs import BlobRef
from shoal.transport.blocking_service import run_inline
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from shoal.transport.port import PeerId
from tests.sim.harness import Disk, DiskBlobs
from tests.training.means_at_hand import SWARM, means_on

LIAR = Identity.from_seed(b"L" * 32)


async def test_a_wrong_snapshot_from_a_peer_lets_go_of_none_that_is_held(
    autojump_clock: object, tmp_path: Path
) -> None:
    network, disk, theirs = Network(0, is_full=True), Disk(), Disk()
    wrong = theirs.put(b"no snapshot", "lie")
    asked: list[bytes] = []

    async def ask(peer: PeerId, digest: bytes) -> BlobRef | None:
        asked.append(digest)
        return wrong

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        means = await means_on(network, disk, tmp_path)
        DiskBlobs(await network.open(LIAR.peer_id), theirs)
        archive, loaded = await open_archive(means, tmp_path / "log", run_inline)
        restored = Restored(Head(0, SWARM, b""), None, ())
        cores = make_cores(means, Ground(restored, archive, loaded, None, Standing.TRAINER, ()), None, None)
        cores.roster.greet(Present(LIAR.peer_id, Presence(1, Standing.TRAINER, ())), restored.head)
        store = await open_store(means, tmp_path / "store", run_inline)
        compactor = Compactor(means, store, cores, ask, lambda digest, frontier: None)

        snapshot = store.replica.snapshot({})
        assert isinstance(snapshot, Snapshot)
        held = digest_of(list(snapshot.pieces()))
        assert await compactor.judge(7, StoreMark((), held))
        agreed = bytes([(held[0] + SLOTS) % 256]) * 32  # is kept under the same label
        nursery.start_soon(compactor.run)
        compactor.adopt(agreed)
        await trio.sleep(60.0)
        assert asked == [agreed]  # who handed over something else is not asked again
        assert means.blobs.open(cores.log.snapshots[held]) is not None
        assert means.blobs.open(wrong) is None
        archive.close()
        nursery.cancel_scope.cancel()
