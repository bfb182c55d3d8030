"""What the model said to an event's prompt when nothing steered it: kept beside the event."""

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.audit import append
from service.clock import now
from service.database import StoreError
from service.tables import replays


class NothingCapturedError(StoreError):
    """An event whose policy kept nothing of what was said."""

    def __init__(self, number: int, policy: str) -> None:
        """Name the event, the policy, and what to do for the next one."""
        super().__init__(
            f"event {number} has no prompt to ask again: policy {policy} captured nothing; give it "
            "'capture: true' and the next event can be"
        )


@dataclass(frozen=True, slots=True)
class Unsteered:
    """An answer under no policy, greedy.

    Attributes:
        answer: Its text.
        generated: Its tokens, by number.
        finish: Why it ended, as the engine's client is told.
    """

    answer: str
    generated: int
    finish: str | None


def keep(connection: Connection, number: int, unsteered: Unsteered, by: str) -> None:
    """Keep the answer of an event that is there, in the place of an earlier one, audited."""
    connection.execute(replays.delete().where(replays.c.event == number))
    row = {"event": number, "by": by, "at": now()} | asdict(unsteered)
    connection.execute(replays.insert().values(row))
    # The audit log says that it was asked, and nothing of what was said.
    told = {"generated": unsteered.generated, "finish": unsteered.finish}
    append(connection, by, "event.replay", f"Event/{number}", None, told)


def kept(connection: Connection, number: int) -> dict[str, Any] | None:
    """Return what is kept of an event; None if its prompt was not asked again."""
    columns = [column for column in replays.c if column.name != "event"]
    query = sa.select(*columns).where(replays.c.event == number)
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)
