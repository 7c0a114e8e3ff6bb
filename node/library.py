"""Shoal in anybody's own program: `shoal.create`, `shoal.join`, and the swarm they return.

    with shoal.join("shoal:...", data_dir="~/my-node") as swarm, swarm.diloco(model, optimizer) as outer:
        for batch in batches:
            ...
            optimizer.step()
            outer.step()

The node runs in a thread of this process. Errors that a person can mend are `Complaint`s of one line.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import platformdirs
import trio

from shoal.training.methods import build_loop, describe_model, with_settings
from shoal.training.spec import Spec, spec_from
from shoal.transport.wire import Malformed

from .complaint import Complaint, Exit
from .config import config_of
from .invite import parse_invite
from .local_methods import invite_to
from .looking import Offer
from .membership import Membership
from .node_thread import NodeThread
from .swarms import AnyMethod, Joined

if TYPE_CHECKING:
    from torch import nn

    from shoal.training.loop import Outer

NONCE_BYTES = 16
CUSTOM_PREFIX = "custom:"  # specs whose model is brought by scripts


class Optimizer(Protocol):
    """What is needed of a torch optimizer."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


def join(invite: str, *, data_dir: str | Path | None = None, **settings: object) -> "Swarm":
    """Join a swarm with a node in this process.

    Args:
        invite: what a member's `Swarm.invite()` or `shoal swarm invite` gave.
        data_dir: where the node keeps its key, swarms and blobs; one process at a time uses it. None: the usual place.
        settings: of the node, as `shoal config show` lists them, e.g. listen=["/ip4/0.0.0.0/tcp/4011"].

    Raises:
        Complaint: with one line that says what to do.
    """
    parsed = parse_invite(invite)
    thread = start(data_dir, settings)
    try:
        swarms = thread.node.swarms
        for joined in swarms.all():
            if joined.folder.swarm == parsed.swarm:
                return Swarm(thread, joined)

        async def enter() -> Joined | Offer:
            offer = await swarms.look(parsed)
            # What scripts bring is known only once they call `diloco`.
            return offer if offer.spec.model.startswith(CUSTOM_PREFIX) else await swarms.join(offer, Membership())

        return Swarm(thread, thread.call(enter))
    except BaseException:
        thread.close()
        raise


def create(
    model: "nn.Module | None" = None,
    *,
    data_dir: str | Path | None = None,
    spec: Mapping[str, Any] | None = None,
    **settings: object,
) -> "Swarm":
    """Found a swarm with a node in this process.

    Args:
        model: the module that members' own loops will train, by `Swarm.diloco`; the swarm starts from its parameters.
            None: a built-in model, trained by the node itself.
        spec: what a SPEC.toml would hold, e.g. {"name": "mine", "members_start": 2, "settings": {"steps": 20}}.
        data_dir, settings: as for `join`.

    Raises:
        Complaint: with one line that says what to do.
    """
    own = None if model is None else describe_model(model)
    if isinstance(own, str):
        raise Complaint(own, Exit.SPEC)
    thread = start(data_dir, settings)
    try:
        node = thread.node
        made = spec_from(spec or {}, node.identity.peer_id, os.urandom(NONCE_BYTES))
        if isinstance(made, Malformed):
            raise Complaint(made.reason, Exit.SPEC)
        if own is None:
            whole = made
            return Swarm(thread, thread.call(lambda: node.swarms.create(whole, Membership())))
        return Swarm(thread, with_settings(msgspec.structs.replace(made, model=own.model), **own.settings))
    except BaseException:
        thread.close()
        raise


def start(data_dir: str | Path | None, settings: Mapping[str, object]) -> NodeThread:
    path = platformdirs.user_data_path("shoal", appauthor=False) if data_dir is None else Path(data_dir).expanduser()
    # The program is its owner's own: unlike the daemon it does not step back for other programs.
    return NodeThread(path.absolute(), config_of({"nice": 0, **settings}, "settings"))


class Swarm:
    """A swarm that this process's node is in. Close it, or use it as a context manager."""

    def __init__(self, thread: NodeThread, entered: Joined | Offer | Spec) -> None:
        self._thread = thread
        self._entered = entered  # an offer or a spec until `diloco` says by what it is trained

    def __enter__(self) -> "Swarm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def spec(self) -> Spec:
        """What is trained, and by which rules."""
        return self._entered if isinstance(self._entered, Spec) else self._entered.spec

    def diloco(self, model: "nn.Module", inner_optimizer: Optimizer) -> "Outer":
        """Train `model` with the swarm, in your own loop: call `step()` on what this returns after each inner step.

        On entering the context the model's parameters become the swarm's.

        Raises:
            Complaint: the model does not fit the swarm, or the optimizer does not step it.
        """
        check_optimizer(model, inner_optimizer)
        built = build_loop(self.spec, model)
        if isinstance(built, str):
            raise Complaint(built, Exit.SPEC)
        method, outer = built
        self._entered = self._thread.call(lambda: self._run_by(method, outer))
        return outer

    def invite(self) -> str:
        """A fresh invite to send to others."""
        joined = self._joined()
        node = self._thread.node

        async def make() -> str:
            return invite_to(node, joined)

        return self._thread.call(make)

    def status(self) -> dict[str, Any]:
        """How the training goes: round, state digest, figures, members."""
        joined = self._joined()
        node = self._thread.node

        async def look() -> dict[str, Any]:
            return node.describe(joined)

        return self._thread.call(look)

    def leave(self) -> None:
        """Leave the swarm for good, and close."""
        joined = self._joined()
        self._thread.call(lambda: self._thread.node.swarms.leave(joined))
        self.close()

    def close(self) -> None:
        """Stop the node. The swarm is not left: joining again with the same data directory goes on."""
        self._thread.close()

    async def _run_by(self, method: AnyMethod, outer: "Outer") -> Joined:
        swarms, entered = self._thread.node.swarms, self._entered
        if isinstance(entered, Joined):
            await swarms.run_by(entered, method)
            joined = entered
        elif isinstance(entered, Offer):
            joined = await swarms.join(entered, Membership(), method)
        else:
            joined = await swarms.create(entered, Membership(), method)
        trio.lowlevel.spawn_system_task(end_with, joined, outer)
        return joined

    def _joined(self) -> Joined:
        if not isinstance(self._entered, Joined):
            raise Complaint("call diloco(model, optimizer) first: it enters the swarm")
        return self._entered


async def end_with(joined: Joined, outer: "Outer") -> None:
    """Free the script's thread from waiting for a round that will not come, however the engine ended."""
    try:
        await joined.ended.wait()
    finally:
        outer.end("training has ended here: all rounds are done, the swarm was left, or the node stopped")


def check_optimizer(model: "nn.Module", optimizer: Optimizer) -> None:
    """Raises Complaint if the optimizer would leave the model as it is."""
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in stepped for parameter in model.parameters()):
        raise Complaint("the inner optimizer steps none of this model's parameters: make it from model.parameters()")
