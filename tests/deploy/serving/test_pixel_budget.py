"""No more pixels at once than are allowed, in turn, whatever becomes of who waits."""

from __future__ import annotations

import asyncio

import pytest

from deploy.serving.pixel_budget import PixelBudget


def test_never_more_than_the_limit_and_all_get_their_turn():
    async def main() -> tuple[int, list[int]]:
        budget, held, most, order = PixelBudget(10), 0, 0, []

        async def work(pixels: int) -> None:
            nonlocal held, most
            async with budget.hold(pixels):
                held += pixels
                most = max(most, held)
                order.append(pixels)
                await asyncio.sleep(0.001)
                held -= pixels

        await asyncio.gather(*(work(pixels) for pixels in (6, 6, 1, 10, 2, 3, 9)))
        return most, order

    most, order = asyncio.run(main())
    assert most <= 10
    assert order == [6, 6, 1, 10, 2, 3, 9]  # a small one does not pass a large one


def test_more_than_the_limit_is_held_alone():
    async def main() -> None:
        budget = PixelBudget(10)
        async with budget.hold(1000):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(budget.hold(1).__aenter__(), 0.01)
        async with asyncio.timeout(1), budget.hold(10):
            pass

    asyncio.run(main())


def test_who_gives_up_leaves_room_for_the_next():
    async def main() -> None:
        budget = PixelBudget(10)
        async with budget.hold(8):
            gone = asyncio.create_task(budget.hold(9).__aenter__())
            small = asyncio.create_task(budget.hold(2).__aenter__())
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait_for(small, 1)

    asyncio.run(main())


def test_who_gives_up_just_when_its_turn_comes_gives_it_back():
    async def main() -> None:
        budget = PixelBudget(10)
        async with budget.hold(8):
            gone = asyncio.create_task(budget.hold(9).__aenter__())
            await asyncio.sleep(0)
        gone.cancel()  # it was given its turn at the end of the block, and has not run since
        with pytest.raises(asyncio.CancelledError):
            await gone
        async with asyncio.timeout(1), budget.hold(10):
            pass

    asyncio.run(main())
