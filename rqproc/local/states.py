"""Where states of stateful ids are kept without a server: in this process, while it runs."""

from __future__ import annotations

from rqproc.node.held import HeldId


class LocalStates:
    """It is a ``States``."""

    incarnation = "local"

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def take(self, held: HeldId, token: int) -> str:
        return self._kept.get(held.address, "")

    def keep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None:
        self._kept[held.address] = text

    async def atake(self, held: HeldId, token: int) -> str:
        return self.take(held, token)

    async def akeep(self, held: HeldId, text: str, *, for_s: float = 0.0) -> None:
        self.keep(held, text)
