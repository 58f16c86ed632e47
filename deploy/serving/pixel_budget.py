"""How many pixels may be decoded and predicted at once: a picture of some kilobytes can have millions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """First come, first served: a large picture is not passed by small ones for ever. One event loop owns it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Waits until so many pixels fit, and holds them during the block. More than the limit are held alone."""
        pixels = min(pixels, self._limit)
        await self._acquire(pixels)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:  # its time is up, or the client has gone
            if turn.done() and not turn.cancelled():
                self._release(pixels)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._grant()
            raise

    def _release(self, pixels: int) -> None:
        self._held -= pixels
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._held + self._waiting[0][0] <= self._limit:
            pixels, turn = self._waiting.popleft()
            self._held += pixels
            turn.set_result(None)
