"""Where a test keeps a store."""

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from service.database import parse_url
from service.store import Store


@dataclass(frozen=True)
class StorePlace:
    """A database and a folder of artifacts; opening it again finds what was left in it."""

    url: str
    artifacts: Path

    def open(self) -> Store:
        return Store.open(self.url, self.artifacts)

    def execute(self, statement: str) -> None:
        """Change the database behind the store's back."""
        engine = self.engine()
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def engine(self) -> sa.Engine:
        return sa.create_engine(parse_url(self.url))
