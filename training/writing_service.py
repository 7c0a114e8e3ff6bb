"""What has to be on disk before what follows it is said or done: written in order, all that has come meanwhile at once.
A shell.
"""

from collections.abc import Callable, Iterable
from functools import partial

import trio

from shoal.crdt.file_service import StoreError

from .agreeing import Keep, Split
from .answers_service import Cores
from .archive_service import Archive
from .effects import Effect, KeepLeap, Recovered
from .events import Problem
from .means import Means
from .voting_effects import Save

DISK_PAUSE_S = 5.0  # before what could not be written is tried again


class Writer:
    """Of one member's log. `wrote` carries out what is written."""

    def __init__(self, means: Means, cores: Cores, wrote: Callable[[list[Effect]], None]) -> None:
        self._means = means
        self._archive = cores.archive
        self._unwritten = cores.unwritten
        self._wrote = wrote
        self._has_unwritten = trio.Event()

    def put(self, effect: Effect) -> None:
        """Write it after all that was put before."""
        self._unwritten.put(effect)
        self._has_unwritten.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._has_unwritten.wait()
            self._has_unwritten = trio.Event()
            batch = self._unwritten.take()
            await self._write(batch)
            self._wrote(batch)
            self._unwritten.carried_out()

    async def _write(self, batch: list[Effect]) -> None:
        """However long it takes: what is not remembered must not be said."""
        said = ""
        while True:
            try:
                await self._means.workers.run(partial(write, self._archive, batch))
            except StoreError as error:
                if str(error) != said:
                    self._means.observe(Problem(f"this member says nothing to agreement: {error}"))
                said = str(error)
                await trio.sleep(DISK_PAUSE_S)
            else:
                return


def write(archive: Archive, batch: Iterable[Effect]) -> None:
    """Records first: a journal of a later round than the log's end would be taken for an old one. Blocks."""
    keeps = [effect for effect in batch if isinstance(effect, Keep)]
    if keeps:
        archive.append(keeps)
    for effect in batch:
        if isinstance(effect, KeepLeap):
            archive.leap(effect.proof, effect.position)
        elif isinstance(effect, Recovered):
            archive.recovered()
    journals = [effect.journal for effect in batch if isinstance(effect, Save)]
    if journals:
        archive.save_journal(journals[-1])
    for effect in batch:
        if isinstance(effect, Split):
            archive.keep_split(effect)
