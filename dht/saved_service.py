"""The file in which a routing table survives a restart: written whole or not at all, and believed like a peer."""

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from shoal.transport.wire import Malformed, decode, encode

from .contacts import Contact
from .routing import SAVED_BYTES_MAX, RoutingTable, SavedTable, restored

SAVE_S: Final = 60.0
AGAIN_S_MIN: Final = 5.0  # between tries to come back, doubled up to AGAIN_S_MAX: a laptop may wait for its network
AGAIN_S_MAX: Final = 300.0

log = logging.getLogger(__name__)


async def survive(
    path: Path,
    table: RoutingTable,
    meet: Callable[[Sequence[Contact]], Awaitable[bool]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Come back to whom an earlier run knew, and write down for the next one who is known, until cancelled.

    Args:
        meet: asks these; whether one answered.
    """
    known = await trio.to_thread.run_sync(load_contacts, path)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back, known, table, meet)
            task_status.started()
            while True:
                await trio.sleep(SAVE_S)
                await trio.to_thread.run_sync(save_table, path, table.to_save())
    finally:
        # Here and not in a thread, for it does not wait for the disk: 1,024 peers take 2 ms. A power cut in the next
        # seconds may cost the file, which costs a node an address to start from.
        save_table(path, table.to_save(), waits_for_disk=False)


async def come_back(
    known: Sequence[Contact], table: RoutingTable, meet: Callable[[Sequence[Contact]], Awaitable[bool]]
) -> None:
    """Until somebody is in the table, which then keeps whom it knows: this node may have started before its network."""
    pause_s = AGAIN_S_MIN
    while not len(table) and not await meet(known):
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_S_MAX)


def load_contacts(path: Path) -> list[Contact]:
    """Whom an earlier run knew; nobody if there is no such file or it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(SAVED_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("the peers known before cannot be read from %s: %s", path, error)
        return []
    saved = decode(data, SavedTable, SAVED_BYTES_MAX)
    if isinstance(saved, Malformed):
        log.warning("%s does not hold the peers known before: %s. Going on without them", path, saved.reason)
        return []
    return restored(saved)


def save_table(path: Path, saved: SavedTable, *, waits_for_disk: bool = True) -> None:
    """Replace the file. A full disk costs what is new, not what was there, nor the node."""
    if not saved.contacts:
        return  # who is alone just now will want to come back
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("wb") as file:
            file.write(encode(saved))
            if waits_for_disk:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        log.warning("the peers known are not saved: %s", error)
