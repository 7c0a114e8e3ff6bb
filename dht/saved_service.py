"""The file in which a routing table survives a restart: written whole or not at all, and believed like a peer."""

import logging
import os
from pathlib import Path

from shoal.transport.wire import Malformed, decode, encode

from .contacts import Contact
from .routing import SAVED_BYTES_MAX, SavedTable, restored

log = logging.getLogger(__name__)


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


def save_table(path: Path, saved: SavedTable) -> None:
    """Replace the file. A full disk costs what is new, not what was there, nor the node."""
    if not saved.contacts:
        return  # who is alone just now will want to come back
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("wb") as file:
            file.write(encode(saved))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        log.warning("the peers known are not saved: %s", error)
