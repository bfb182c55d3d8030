"""Opens the store's database: where it lies, how it is locked, its migrations."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from service.clock import now
from service.errors import ServiceError
from service.file_identity import FileGoneError, FileIdentity
from service.health import Health
from service.tables import generations, halts

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 10_000
WRITER_LOCK = 0x7472696D74616230  # PostgreSQL's advisory locks are keyed by a 64-bit integer
FORMS = "give a folder, sqlite:///path/to/file.db or postgresql://user@host/database"
PRAGMAS = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "journal_mode=WAL",
    # What was acknowledged outlives a loss of power too.
    "synchronous=FULL",
    "foreign_keys=ON",
    # KiB a connection: two MiB each, SQLite's own choice, grow for hours and look like a leak.
    "cache_size=-256",
)
# A server that cannot be reached any more is noticed in seconds, also in the middle of a statement.
PATIENCE = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""What libpq is told unless the URL says otherwise."""
_PROBE = "probe"
"""A row that is taken away by the change that adds it."""
# SQLite's readers see one state anyway; PostgreSQL's see another with each statement by default.
_SNAPSHOT = {"postgresql": {"isolation_level": "REPEATABLE READ"}}


class StoreError(ServiceError):
    """The store cannot be opened, read or written."""


class Database:
    """An engine whose writers exclude each other and whose failures are ``StoreError``."""

    def __init__(self, url: URL) -> None:
        """Connect and bring the tables up to date.

        Raises:
            StoreError: The database cannot be reached, or a newer version wrote it.
        """
        self._where = url.render_as_string(hide_password=True)
        self._reads = self._writes = Health(True, now())
        self._file: FileIdentity | None = None
        try:
            self._engine = _engine(url)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{self._where} needs the package '{error.name}'; pip install 'psycopg[binary]'"
            ) from error
        with self.write() as connection:
            _migrate(connection, self._where)
        if url.get_backend_name() == "sqlite":
            self._file = FileIdentity(Path(url.database or ""))

    @property
    def health(self) -> Health:
        """Whether the database can be used, as far as its last uses tell."""
        return self._reads if self._writes.ok else self._writes

    def probe(self) -> None:
        """Use the database, so that ``health`` is of now; never raises for its failures.

        What could not be written is tried by writing: a full disk can still be read.
        """
        with suppress(StoreError):
            if self._writes.ok:
                with self.read() as connection:
                    connection.execute(sa.select(generations.c.id)).all()
            else:
                with self.write() as connection:
                    row = {"canary": _PROBE, "binding": "", "reason": "", "at": now()}
                    connection.execute(halts.insert().values(row))
                    connection.execute(halts.delete().where(halts.c.canary == _PROBE))

    def call_silent(self, seconds: float) -> None:
        """Note that a use has not come back for so long."""
        self._failed(False, f"the store at {self._where} has not answered for {seconds:g} s")

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Yield a connection that sees one consistent state."""
        with self._using(False), self._engine.connect() as connection:
            reader = connection.execution_options(**_SNAPSHOT.get(connection.dialect.name, {}))
            with reader.begin():
                yield reader

    @contextmanager
    def write(self) -> Generator[Connection]:
        """Yield the connection of the only writer; all of it is committed, or nothing is."""
        with self._using(True), self._engine.connect() as connection:
            writer = connection.execution_options(trimtab_writer=True)
            with writer.begin():
                if writer.dialect.name == "postgresql":
                    writer.exec_driver_sql(f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_MS}")
                    writer.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
                yield writer

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _using(self, writes: bool) -> Generator[None]:
        """Turn failures into ``StoreError``, and keep how it went."""
        try:
            self._find_file()
            yield
            # Looked for again: what was written to a file that was taken away is not kept.
            self._find_file()
        except FileGoneError as error:
            raise self._failed(writes, str(error)) from error
        except (IntegrityError, DataError) as error:
            raise self._error(error) from error
        except SQLAlchemyError as error:
            raise self._failed(writes, str(self._error(error))) from error
        self._reads = self._reads.after(None)
        if writes:
            self._writes = self._writes.after(None)

    def _find_file(self) -> None:
        if self._file is not None:
            self._file.check()

    def _error(self, error: SQLAlchemyError) -> StoreError:
        cause = getattr(error, "orig", None) or error
        return StoreError(f"the store at {self._where} failed: {cause}")

    def _failed(self, writes: bool, message: str) -> StoreError:
        if writes:
            self._writes = self._writes.after(message)
        else:
            self._reads = self._reads.after(message)
        return StoreError(message)


def parse_url(text: str) -> URL:
    """Return the database of ``--state``: a folder, ``sqlite:///file`` or ``postgresql://…``.

    Raises:
        StoreError: It is none of these.
    """
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser() / "trimtab.db"))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # Without the text: a URL that does not parse may still hold a password.
        raise StoreError(f"what is given as the store is not a database URL; {FORMS}") from error
    name = url.get_backend_name()
    if name == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    if name == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(
        f"a store cannot be kept in '{url.render_as_string(hide_password=True)}'; {FORMS}"
    )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        told = {name: value for name, value in PATIENCE.items() if name not in url.query}
        # A connection that the server ended while it waited is replaced, not handed out.
        engine = sa.create_engine(url.update_query_dict(told), pool_pre_ping=True)
    else:
        engine = sa.create_engine(url)
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    event.listen(engine, "before_cursor_execute", _on_execute, retval=True)
    return engine


def _on_execute(
    _connection: object, _cursor: object, statement: str, parameters: Any, *_: object
) -> tuple[str, Any]:
    return statement, storable(parameters)


def storable(value: Any) -> Any:
    """Return a value with U+FFFD where its text has what some database does not hold.

    PostgreSQL has no NUL, and no encoding has half of a surrogate pair. What a client may choose
    freely must not make a statement fail: a batch of others' rows would fail with it.
    """
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return (
            value.encode("utf-8", "surrogatepass")
            .decode("utf-8", "replace")
            .replace("\0", "\ufffd")
        )
    if isinstance(value, dict):
        return {name: storable(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(storable(one) for one in value)
    return value


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    # Python's own transaction handling begins late and skips DDL; ours begins every transaction.
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _on_sqlite_begin(connection: Connection) -> None:
    # A writer takes the lock at once: one that upgrades later fails instead of waiting.
    writer = connection.get_execution_options().get("trimtab_writer", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")


def _migrate(connection: Connection, where: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"the store at {where} cannot be used: {error}; a newer version of Trimtab may have "
            "written it"
        ) from error
