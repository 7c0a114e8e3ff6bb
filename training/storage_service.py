"""What a storage member keeps in a state's place: the newest checkpoint's bytes, which it cannot read. A shell."""

from functools import partial
from typing import Any

from shoal.transport.blobs import BlobRef
from shoal.transport.wire import Malformed

from .fetching_service import PacedFetches
from .means import Means
from .records import Head
from .state_service import STATES_KEPT, Applied, Holders, Restored
from .store import FILE_VERSION, StoredHead


class StorageKeeper:
    """A member without a method: heads and checkpoints are taken on the word of those who have one."""

    def __init__(self, means: Means) -> None:
        self._swarm = means.swarm
        self._blobs = means.blobs
        self._pins = means.pins
        self._fetches = PacedFetches(means.blobs)
        self._store = means.store
        self._workers = means.workers

    @property
    def state(self) -> None:
        """None that could be read."""
        return None

    def evidence(self) -> None:
        """It stands in what cannot be read here."""

    async def restore(self) -> Restored:
        """Where an earlier run stood, if its checkpoint is still here."""
        stored = await self._workers.run(self._store.load_head)
        if isinstance(stored, StoredHead) and stored.state is not None and self._blobs.open(stored.state) is not None:
            self._pins.remember_until(stored.head.round)
            return Restored(stored.head, stored.state, ())
        problems = (f"the saved position cannot be read: {stored.reason}",) if isinstance(stored, Malformed) else ()
        return Restored(Head(0, self._swarm, b""), None, problems)

    async def fetch_state(self, head: Head, ref: BlobRef, holders: Holders) -> Applied[BlobRef] | str:
        refusal = await self._fetches.fetch(ref, holders, pin=self._pins.label("state", head.round))
        return Applied(ref, head.digest, ref) if refusal is None else refusal.message

    async def stand_at(self, head: Head, applied: Applied[Any], taken: frozenset[bytes]) -> BlobRef | str | None:
        """Keep this checkpoint from now on; or why it is not kept."""
        stored = StoredHead(FILE_VERSION, head, applied.saved, None)
        try:
            await self._workers.run(partial(self._store.save_head, stored))
        except OSError as error:
            return f"the position in round {head.round} is not saved: {error.strerror}"
        self._pins.keep_newest("state", head.round, STATES_KEPT)
        return applied.saved
