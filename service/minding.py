"""Keeps what is known of a store's health fresh while nobody uses it."""

import asyncio

from service.store import Store

PROBE_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
"""A store that does not answer for so long is not well, whatever it says in the end."""


async def mind(
    store: Store, seconds: float = PROBE_SECONDS, patience: float = PATIENCE_SECONDS
) -> None:
    """Use a store every few seconds, until cancelled; one use at a time, however long it takes."""
    while True:
        using = asyncio.ensure_future(asyncio.to_thread(store.probe))
        await asyncio.wait({using}, timeout=patience)
        if not using.done():
            store.call_silent(patience)
        await using
        await asyncio.sleep(seconds)
