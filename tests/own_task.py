"""A context that is entered and left in one task: a fixture's end runs in another task than its
beginning, which task groups and time-outs do not take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


@asynccontextmanager
async def in_a_task_of_its_own[Value](
    context: AbstractAsyncContextManager[Value],
) -> AsyncGenerator[Value]:
    """What `context` gives, for the length of the block."""
    ready: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with context as value:
            ready.set_result(value)
            await over.wait()

    task = asyncio.create_task(hold())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task  # raises what kept it from being ready
    try:
        yield ready.result()
    finally:
        over.set()
        await task
