"""A swarm that goes on from another's state: what its creator puts on disk, for the engine to find as round 0. A shell.

The others need trust nobody: the spec names the state's digest (`Diloco.start_digest`), and they fetch what has it.
"""

from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from shoal.transport.port import Refusal

from .method import Method
from .pins import Pins
from .ports import Blobs
from .records import Head
from .spec import Spec, swarm_id
from .store import FILE_VERSION, MemberStore, StoredHead
from .workers_service import Workers


@runtime_checkable
class Restarts(Protocol):
    """A method whose swarms may go on from another's state."""

    def restart(self, state: Any) -> Any:
        """That state as round 0."""
        ...

    def digest(self, state: Any) -> bytes: ...


async def put_start(
    spec: Spec, method: Method[Any, Any], state: Any, blobs: Blobs, workers: Workers
) -> StoredHead | Refusal | str:
    """Put the state from which the swarm of `spec` starts into the blobs: where its creator's engine is to begin; or
    why it cannot be from this state.
    """
    if not isinstance(method, Restarts):
        return f"method {spec.method} cannot go on from another swarm's state"
    first = method.restart(state)
    digest = await workers.run(partial(method.digest, first))
    if digest is None or digest.hex() != spec.settings.get("start"):
        return f"the state is of another model than {spec.model}: their tensors differ"
    _, local = await workers.run(partial(method.start, spec))
    swarm = swarm_id(spec)
    pins = Pins(swarm, blobs)
    saved = await blobs.put(method.save(first), pin=pins.label("state", 0))
    if isinstance(saved, Refusal):
        return saved
    saved_local = await blobs.put(method.save_local(local), pin=pins.label("local", 0))
    if isinstance(saved_local, Refusal):
        drop_start(spec, blobs)
        return saved_local
    return StoredHead(FILE_VERSION, Head(0, swarm, digest), saved, saved_local)


def keep_start(directory: Path, start: StoredHead) -> None:
    """Have the engine that is to run in `directory` begin there. Blocks. Raises OSError."""
    MemberStore(directory).save_head(start)


def drop_start(spec: Spec, blobs: Blobs) -> None:
    """The swarm is not founded after all."""
    pins = Pins(swarm_id(spec), blobs)
    for kind in ("state", "local"):
        blobs.unpin(pins.label(kind, 0))
