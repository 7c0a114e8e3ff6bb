"""A node in a thread of its own, for programs that are not written in trio."""

import atexit
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import trio

from .app import run_node
from .complaint import Complaint, Exit, only_complaint
from .config import Config
from .node import Node, Setup
from .stall import StallMeter

START_S = 60.0
CLOSE_S = 10.0

T = TypeVar("T")


class NodeThread:
    """Runs a node from construction to `close`.

    Raises:
        Complaint: the data directory, the key or a port cannot be used.
    """

    def __init__(self, data_dir: Path, config: Config) -> None:
        self._started: Future[tuple[Node, trio.lowlevel.TrioToken]] = Future()
        self._thread = threading.Thread(target=self._run, args=(data_dir, config), name="shoal-node", daemon=True)
        self._thread.start()
        self.node, self._token = self._started.result(START_S)
        atexit.register(self.close)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function` in the node's loop and give its result, or raise what it raised."""
        try:
            return trio.from_thread.run(function, trio_token=self._token)
        except trio.RunFinishedError as error:
            raise Complaint("the node has stopped", Exit.NO_NODE) from error

    def close(self) -> None:
        """Stop the node, and wait until it has."""
        atexit.unregister(self.close)
        try:
            trio.from_thread.run_sync(self.node.setup.stopping.set, trio_token=self._token)
        except trio.RunFinishedError:
            return
        self._thread.join(CLOSE_S)

    def _run(self, data_dir: Path, config: Config) -> None:
        stalls = StallMeter()
        failure = Complaint("the node ended before it was ready")
        try:
            trio.run(self._main, data_dir, config, stalls, instruments=[stalls])
        except BaseExceptionGroup as group:
            complaint = only_complaint(group)
            if complaint is None:
                raise
            failure = complaint
        finally:
            if not self._started.done():
                self._started.set_exception(failure)

    async def _main(self, data_dir: Path, config: Config, stalls: StallMeter) -> None:
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            node = await nursery.start(run_node, Setup(data_dir, config, stalls, stopping))
            self._started.set_result((node, trio.lowlevel.current_trio_token()))
            await stopping.wait()
            nursery.cancel_scope.cancel()
