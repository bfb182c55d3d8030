"""A world for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.service.api.world import World, build


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = await build()
    yield made
    made.store.close()
