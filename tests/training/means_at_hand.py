"""What one member's shells work with, on a simulated network: for tests of one of them alone."""

from pathlib import Path

from shoal.training.keeping import Keeping
from shoal.training.means import Means
from shoal.training.pins import Pins
from shoal.training.spec import Spec, sign_spec, swarm_id
from shoal.training.store import MemberStore
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from tests.sim.harness import Disk, DiskBlobs, VirtualWorkers

KEY = Identity.from_seed(bytes(32))
SPEC = Spec(creator=KEY.peer_id, nonce=bytes(16))
SWARM = swarm_id(SPEC)


async def means_on(network: Network, disk: Disk, folder: Path) -> Means:
    """Of the swarm's creator, whose member's folder this is."""
    transport = await network.open(KEY.peer_id)
    blobs = DiskBlobs(transport, disk)
    return Means(
        sign_spec(SPEC, KEY),
        SPEC,
        SWARM,
        transport,
        Keeping(transport),
        blobs,
        KEY,
        VirtualWorkers(0.1),
        MemberStore(folder),
        Pins(SWARM, blobs),
        observe=lambda event: None,
        expects=lambda peer: True,
    )
