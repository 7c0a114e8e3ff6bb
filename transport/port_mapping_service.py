"""Keeps a port of this node mapped at the home's router, from the first question to giving it back. A shell."""

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import trio

from .pcp import NONCE_BYTES
from .port_mapping import LEASE_S, ORDER, Ask, Mapping, PortMapping, Protocol
from .router_service import RouterService, default_gateway

GIVE_BACK_S: Final = 1.0  # how long giving back may hold up the node's end, and a useless mapping the next question

log = logging.getLogger(__name__)

OnChange = Callable[[Mapping | None, str], None]


class PortMappingService:
    """The mapping of one TCP port; nothing of it waits for a router that is not there.

    Args:
        port: where this node listens.
        seed: of other ports to ask for where that one is taken.
        on_change: is told the mapping whenever it is another one or begins or ends, and why there is none.
        gateway: where the router is, if that is known.
    """

    def __init__(
        self,
        port: int,
        seed: int,
        on_change: OnChange,
        *,
        lease_s: int = LEASE_S,
        protocols: Sequence[Protocol] = ORDER,
        gateway: Callable[[], str | None] = default_gateway,
    ) -> None:
        self._port = port
        self._core = PortMapping(port, seed, lease_s, protocols)
        self._router = RouterService(secrets.token_bytes(NONCE_BYTES), gateway)
        self._on_change = on_change
        self._told: tuple[object, str] | None = None
        self._asking = trio.CancelScope()  # or waiting for the next time to ask

    @property
    def mapping(self) -> Mapping | None:
        """What stands now."""
        return self._core.mapping

    @property
    def reason(self) -> str:
        """Why nothing does; empty if there is a mapping."""
        return self._core.reason

    def network_changed(self) -> None:
        """Ask at once: the addresses of this machine are others than before, or peers see it elsewhere."""
        self._core.network_changed(trio.current_time())
        self._router.forget()
        self._asking.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and renew until cancelled, then give back."""
        task_status.started()
        try:
            while True:
                with trio.CancelScope() as self._asking:
                    await self._step()
                self._tell()
        finally:
            back = self._core.ended()
            if back is not None:
                with trio.move_on_after(GIVE_BACK_S, shield=True):
                    await self._router.give_back(self._port, back)

    async def _step(self) -> None:
        effect = self._core.due(trio.current_time())
        self._tell()
        if effect is None:
            await trio.sleep_until(self._core.deadline)
        elif isinstance(effect, Ask):
            answer = await self._router.ask(self._port, effect)
            self._core.answered(effect, answer, trio.current_time())
        else:
            with trio.move_on_after(GIVE_BACK_S):
                await self._router.give_back(self._port, effect)

    def _tell(self) -> None:
        mapping, reason = self._core.mapping, self._core.reason
        state = (None if mapping is None else (mapping.host, mapping.port, mapping.protocol), reason)
        if state == self._told:
            return
        is_first, self._told = self._told is None, state
        if not is_first:
            log.info("%s", self._core.happened)
            self._on_change(mapping, reason)
