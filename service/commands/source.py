"""What the ``policy`` commands speak to: a store, or a running server."""

from typing import Any, Protocol

import httpx

from service.commands.output import CommandError
from service.records import Revision
from service.settings import KEY, Environment, is_loopback
from service.store import Store
from service.views import detail, summary

TIMEOUT_SECONDS = 10.0
CHANGE_SECONDS = 120.0
"""A change compiles and writes tables before it is answered."""


class Source(Protocol):
    """Something that knows policies."""

    def policies(self) -> list[dict[str, Any]]:
        """Return a summary of each active policy."""
        ...

    def policy(self, name: str, revision: int | None) -> dict[str, Any]:
        """Return one policy in detail."""
        ...


class StoreSource:
    """Reads a store without a server."""

    def __init__(self, url: str, environment: Environment) -> None:
        """Open the store that is at ``url`` already."""
        self._store = Store.open(url, environment.artifacts_folder, must_exist=True)

    def policies(self) -> list[dict[str, Any]]:
        """Return a summary of each active policy."""
        return [summary(revision) for revision in self._active()]

    def policy(self, name: str, revision: int | None) -> dict[str, Any]:
        """Return a revision of a policy; without a number the active one, or else the newest."""
        active = {r.name: r.revision for r in self._active()}.get(name)
        found = self._store.get(name, revision if revision is not None else active)
        return detail(found, self._store.revisions(name), found.revision == active)

    def _active(self) -> list[Revision]:
        return [r for r in self._store.all_active() if r.kind == "Policy"]


class ServerSource:
    """Asks a running server."""

    def __init__(self, url: str, environment: Environment) -> None:
        """Keep where the server is and the key to send."""
        key = environment.key
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=f"{self._url}/trimtab/v1",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=TIMEOUT_SECONDS,
                # A loopback server is never behind a proxy, and the key is not for one.
                trust_env=not is_loopback(httpx.URL(url).host),
            )
        except httpx.InvalidURL as error:
            raise CommandError(f"'{url}' is not a URL: {error}") from error

    def policies(self) -> list[dict[str, Any]]:
        """Return a summary of each active policy."""
        return self._get("policies", {})["policies"]

    def policy(self, name: str, revision: int | None) -> dict[str, Any]:
        """Return one policy in detail."""
        asked = {} if revision is None else {"revision": revision}
        return self._get(f"policies/{name}", asked)

    def _get(self, path: str, params: dict[str, int]) -> Any:
        return self._ask("GET", path, params=params)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        return _body(self._answer(method, path, **more))

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise CommandError(
                f"no answer from {self._url} ({error}): start a server with 'trimtab serve', or "
                "give --url or --state"
            ) from error
        if answer.status_code == 401:
            raise CommandError(f"{self._url} refused the key: set {KEY} to a key of it")
        return answer


def open_source(state: str | None, url: str | None) -> Source:
    """Return the store if one is given, else the server.

    Raises:
        CommandError: Both are given.
    """
    if state is not None and url is not None:
        raise CommandError("--state reads a store and --url asks a server: give one of them")
    environment = Environment.read()
    if state is not None:
        return StoreSource(state, environment)
    return ServerSource(url or environment.url, environment)


def _body(answer: httpx.Response) -> Any:
    try:
        body = answer.json()
    except ValueError as error:
        raise CommandError(
            f"{answer.url} answered {answer.status_code} without JSON: is it a Trimtab server?"
        ) from error
    if answer.is_success:
        return body
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    raise CommandError(message or f"{answer.url} answered {answer.status_code}")
