"""What a node remembers of the swarms it is in: a folder each, whole or not there, found again after a kill -9.

swarms/<swarm id>/spec          the signed spec, as it came
swarms/<swarm id>/member.json   this node's own part: role, own data, known members
swarms/<swarm id>/rounds/       the engine's
swarms/<swarm id>.kept/         of a swarm that was left: this node's own history there, to go on with after a return
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from shoal.training.admission import Ticket
from shoal.training.founding_service import keep_start
from shoal.training.spec import SPEC_BYTES_MAX, SignedSpec, Spec, open_spec
from shoal.training.store import StoredHead
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Digest, Malformed, decode, encode

from .complaint import Complaint, Exit
from .local_protocol import NOT_JSON

SPEC_NAME = "spec"
MEMBER_NAME = "member.json"
ROUNDS_NAME = "rounds"
# In it: of its presence, training.namespaces.STORE_NAME, and what it signed: training.archive_reading_service.LOG_NAME.
HISTORY_FILES = ("sequence", "store.db*", "log.db*")
KNOWN_MEMBERS_MAX = 64  # remembered to come back by

Role = Literal["train", "storage"]


class Membership(msgspec.Struct, frozen=True):
    """This node's own part in a swarm. Never sent."""

    role: Role = "train"
    data: str | None = None  # a file of one's own to train on
    entry: str | None = None  # a file of one's own code that the spec names by hash
    model_dir: str | None = None  # a folder with a model that the spec names by hash
    is_paused: bool = False
    known: dict[str, tuple[str, ...]] = {}  # peer id -> addresses that worked, latest last
    ticket: Ticket | None = None  # the invite's; base64 in the file
    trusted: Digest | None = None  # the hash of a record that the invite named, likewise


class SwarmFolder:
    """One swarm's folder."""

    def __init__(self, root: Path, swarm: bytes) -> None:
        self.swarm = swarm
        self.path = root / swarm.hex()

    @property
    def rounds(self) -> Path:
        return self.path / ROUNDS_NAME

    def create(self, signed: SignedSpec, membership: Membership, start: StoredHead | None = None) -> None:
        """Make the folder; with the state from which the swarm starts, if that is another swarm's. Raises OSError."""
        draft = self.path.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        kept = self.path.with_suffix(".kept")
        if kept.exists():
            shutil.copytree(kept, draft / ROUNDS_NAME)
        else:
            (draft / ROUNDS_NAME).mkdir()
        if start is not None:
            keep_start(draft / ROUNDS_NAME, start)
        write_whole(draft / SPEC_NAME, encode(signed))
        write_whole(draft / MEMBER_NAME, msgspec.json.encode(membership))
        os.rename(draft, self.path)
        shutil.rmtree(kept, ignore_errors=True)

    def read(self) -> tuple[SignedSpec, Spec, Membership]:
        """Raises Complaint if the folder is damaged."""
        try:
            signed = decode((self.path / SPEC_NAME).read_bytes(), SignedSpec, SPEC_BYTES_MAX + 256)
            spec = signed if isinstance(signed, Malformed) else open_spec(signed, self.swarm)
            membership = msgspec.json.decode((self.path / MEMBER_NAME).read_bytes(), type=Membership)
        except (OSError, *NOT_JSON) as error:
            raise self._damaged(str(error)) from error
        if isinstance(signed, Malformed) or isinstance(spec, Malformed):
            raise self._damaged(spec.reason if isinstance(spec, Malformed) else "")
        return signed, spec, membership

    def write(self, membership: Membership) -> None:
        """Replace what is remembered. Raises OSError."""
        write_whole(self.path / MEMBER_NAME, msgspec.json.encode(membership))

    def remove(self) -> None:
        """Forget the swarm, its rounds and states included, but for what this node said there: who comes back with the
        same key and says something older is not believed. Raises OSError.
        """
        doomed = self.path.with_suffix(".left")
        os.rename(self.path, doomed)  # at once; deleting takes its time
        forget(doomed)

    def _damaged(self, reason: str) -> Complaint:
        return Complaint(f"{self.path} is damaged ({reason}): delete it and join again by a fresh invite", Exit.CONFIG)


def known_folders(root: Path) -> Iterator[SwarmFolder]:
    """The folders of all swarms this node is in, sorted."""
    for path in sorted(root.iterdir()) if root.exists() else ():
        if len(path.name) == 64 and set(path.name) <= set("0123456789abcdef") and (path / SPEC_NAME).exists():
            yield SwarmFolder(root, bytes.fromhex(path.name))


def find(root: Path, name: str | None) -> tuple[SwarmFolder, Spec]:
    """The folder of the swarm of this id, beginning of an id or name; see `choose`. Raises Complaint."""
    read = {folder.swarm.hex(): (folder, folder.read()[1]) for folder in known_folders(root)}
    return read[choose(name, {id: spec.name for id, (_, spec) in read.items()})]


def forget(doomed: Path) -> None:
    """Delete the folder of a swarm that was left, but for this node's own history there."""
    kept = doomed.with_suffix(".kept")
    for pattern in HISTORY_FILES:
        for file in sorted((doomed / ROUNDS_NAME).glob(pattern)):
            kept.mkdir(exist_ok=True)
            os.replace(file, kept / file.name)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what an interrupted create or leave left behind.

    A folder without a spec is that, too: a worker that was abandoned when its swarm was left may have made it anew.
    """
    for path in sorted(root.iterdir()) if root.exists() else ():
        if path.suffix == ".left":
            forget(path)
        elif path.suffix == ".new" or (path.suffix != ".kept" and not (path / SPEC_NAME).exists()):
            shutil.rmtree(path, ignore_errors=True)


def choose(name: str | None, known: Mapping[str, str]) -> str:
    """The id in `known`, ids to names, that is `name`, begins so or has this name; without one, the only one there is.

    Raises:
        Complaint: there is none, or several fit.
    """
    fitting = [id for id in sorted(known) if name is None or id.startswith(name) or known[id] == name]
    if len(fitting) == 1:
        return fitting[0]
    if not known:
        raise Complaint("this node is in no swarm: `shoal swarm create` makes one, `shoal swarm join` joins one")
    some = ", ".join(f"{id[:12]} ({known[id]})" for id in (fitting or sorted(known))[:8])
    if not fitting:
        raise Complaint(f"this node is in no swarm '{name}', only in {some}")
    raise Complaint(f"say which swarm: {some}", Exit.USAGE)


def with_known(membership: Membership, peer: PeerId, addresses: tuple[Address, ...]) -> Membership:
    """`membership` that remembers where `peer` can be reached; the longest unseen is forgotten first."""
    known = {other: places for other, places in membership.known.items() if other != peer}
    known[peer] = tuple(addresses)
    excess = len(known) - KNOWN_MEMBERS_MAX
    return msgspec.structs.replace(membership, known=dict(list(known.items())[max(0, excess) :]))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it holds all of the old or all of the new. Raises OSError.

    What is there already is left alone: a full disk does not keep a node from starting as it did before.
    """
    if path.is_file() and path.read_bytes() == data:
        return
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
