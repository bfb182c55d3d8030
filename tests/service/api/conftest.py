"""A world for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.service.api.world import World, build, server_of


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = await build()
    yield made
    server = server_of(made)
    for log in (server.events, server.decisions):
        await log.close()  # what is still being written would come back after the store's end
    made.store.close()
