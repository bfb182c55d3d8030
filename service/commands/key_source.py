"""What the ``key`` commands speak to: a store, or a running server."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from service.callers import CONSOLE
from service.commands.output import CommandError
from service.commands.source import ServerSource
from service.key_request import read_key
from service.settings import Environment
from service.store import Store

Json = dict[str, Any]


class KeySource(Protocol):
    """Something that keeps keys."""

    def keys(self) -> list[Json]:
        """Return every key, newest first."""
        ...

    def create(self, wanted: Mapping[str, Any]) -> Json:
        """Make a key and return it with its text."""
        ...

    def rotate(self, key: str, grace_seconds: float) -> Json:
        """Make a key in the place of another and return it with its text."""
        ...

    def revoke(self, key: str) -> Json:
        """Revoke a key and return it."""
        ...


class KeyShelf:
    """A store without a server; whoever may write it is an admin."""

    def __init__(self, url: str, environment: Environment) -> None:
        """Open the store that is at ``url`` already."""
        self._keys = Store.open(url, environment.artifacts_folder, must_exist=True).keys()

    def keys(self) -> list[Json]:
        """Return every key, newest first."""
        return [key.view() for key in self._keys.all()]

    def create(self, wanted: Mapping[str, Any]) -> Json:
        """Make a key and return it with its text."""
        return self._keys.create(read_key(wanted), CONSOLE).view()

    def rotate(self, key: str, grace_seconds: float) -> Json:
        """Make a key in the place of another and return it with its text."""
        return self._keys.rotate(key, grace_seconds, CONSOLE).view()

    def revoke(self, key: str) -> Json:
        """Revoke a key and return it."""
        return self._keys.revoke(key, CONSOLE).view()


class KeyServer(ServerSource):
    """Asks a running server."""

    def keys(self) -> list[Json]:
        """Return every key, newest first."""
        return self._ask("GET", "keys")["keys"]

    def create(self, wanted: Mapping[str, Any]) -> Json:
        """Make a key and return it with its text."""
        return self._ask("POST", "keys", json=dict(wanted))

    def rotate(self, key: str, grace_seconds: float) -> Json:
        """Make a key in the place of another and return it with its text."""
        return self._ask("POST", f"keys/{key}/rotate", json={"grace_seconds": grace_seconds})

    def revoke(self, key: str) -> Json:
        """Revoke a key and return it."""
        return self._ask("DELETE", f"keys/{key}")


def open_keys(state: str | None, url: str | None) -> KeySource:
    """Return the store if one is given, else the server.

    Raises:
        CommandError: Both are given.
    """
    if state is not None and url is not None:
        raise CommandError("--state opens a store and --url asks a server: give one of them")
    environment = Environment.read()
    if state is not None:
        return KeyShelf(state, environment)
    return KeyServer(url or environment.url, environment)


def id_of(keys: Sequence[Json], given: str) -> str:
    """Return the id of a key that is given by its id or by the name of a live one.

    Raises:
        CommandError: There is none.
    """
    if any(key["id"] == given for key in keys):
        return given
    named = [key["id"] for key in keys if key["name"] == given and _is_current(key)]
    if not named:
        raise CommandError(f"there is no key with the id '{given}', and no live one of this name")
    return named[0]


def _is_current(key: Json) -> bool:
    return key["state"] == "live" and key["replaced_by"] is None
