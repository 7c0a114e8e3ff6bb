"""A swarm's store, read from this node's disk and verified.

Nothing is believed, and nobody is asked: the spec and the bytes on disk tell all. A running node, whose file is its
alone, makes a copy.
"""

import enum
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from shoal.crdt.dots import Dot, Entry
from shoal.crdt.rules import Rules
from shoal.crdt.store import Store, StoreError
from shoal.crdt.verify import Found, verify
from shoal.training.namespaces import STORE_NAME, rules_of
from shoal.transport.identity import peer_id_of
from shoal.transport.wire import Malformed, decode

from .complaint import Complaint, Exit
from .directory import take_directory
from .local_client import LocalClient
from .membership import SwarmFolder, find

SWARMS_NAME = "swarms"
DAMAGED = "the file is damaged: a node that starts puts it aside, and the other members fill a new one"


def read_store(data_dir: Path, swarm: str | None) -> tuple[SwarmFolder, Rules, Found]:
    """The store of the swarm of this id, beginning of an id or name, verified. Raises Complaint."""
    folder, spec = find(data_dir / SWARMS_NAME, swarm)
    rules = rules_of(spec)
    try:
        with stored(data_dir, folder) as path, Store(path, folder.swarm) as store:
            loaded = store.load()
            snapshot = None
            if loaded.snapshot is not None:
                snapshot = list(loaded.snapshot.pieces), loaded.snapshot.digest
            found = verify(folder.swarm, rules, snapshot, loaded.batches)
            if loaded.is_damaged or (folder.rounds / f"{STORE_NAME}.damaged").exists():
                found = replace(found, problems=(*found.problems, DAMAGED))
            return folder, rules, found
    except StoreError as error:
        raise Complaint(str(error), Exit.DISK) from error
    except OSError as error:
        raise Complaint(f"cannot copy the store to read it: {error.strerror}", Exit.DISK) from error


@contextmanager
def stored(data_dir: Path, folder: SwarmFolder) -> Generator[Path]:
    """A copy of the file, which the running node makes, if one runs: reading one that is damaged puts it aside. Raises
    Complaint.
    """
    try:
        client = LocalClient(data_dir)
    except Complaint as complaint:
        if complaint.code is not Exit.NO_NODE:
            raise
        path = folder.rounds / STORE_NAME
        if not path.exists():
            raise Complaint(f"there is no {path} yet: the node makes it when it first runs the swarm") from complaint
        with take_directory(data_dir), TemporaryDirectory(prefix="shoal-") as directory:
            for file in path.parent.glob(f"{STORE_NAME}*"):
                shutil.copy(file, directory)
            yield Path(directory) / STORE_NAME
        return
    with client:
        path = Path(client.call("store.copy", swarm=folder.swarm.hex())["path"])
    try:
        yield path
    finally:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)


def entry_of(rules: Rules, namespace: str, path: tuple[str, ...], dot: Dot, entry: Entry) -> dict[str, Any]:
    """One entry as JSON: a typed value by the names of its fields, other bytes in hex."""
    schema = rules.namespaces[namespace].schema
    value = entry.value if schema is None else decode(entry.value, schema, len(entry.value))
    return {
        "namespace": namespace,
        "path": list(path),
        "value": plain(entry.value if isinstance(value, Malformed) else value),
        "writer": str(peer_id_of(dot.writer)),
        "number": dot.number,
    }


def plain(value: Any) -> Any:
    """A message as tables, lists and text."""
    match value:
        case bytes():
            return value.hex()
        case enum.Enum():
            return value.name.lower()
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case tuple():
            return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
