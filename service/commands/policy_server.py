"""What the commands that change policies ask of a running server."""

import json
import time
from collections.abc import Sequence
from typing import Any

from service.commands.output import CommandError
from service.commands.source import CHANGE_SECONDS, ServerSource
from service.documents import Document
from service.settings import Environment

POLL_SECONDS = 0.2

Json = dict[str, Any]


class PolicyServer(ServerSource):
    """Plans and makes changes, and waits until they are served."""

    @classmethod
    def at(cls, url: str | None) -> "PolicyServer":
        """Return the server at a URL, the default one unless given."""
        environment = Environment.read()
        return cls(url or environment.url, environment)

    def plan(self, documents: Sequence[Document], as_directory: bool) -> Json:
        """Return what applying documents would do, or having only them in the policy directory."""
        asked = {"owner": "directory" if as_directory else "api"}
        text = _text(documents)
        return self._change("POST", "policies/plan", None, params=asked, content=text)

    def apply(self, documents: Sequence[Document], generation: int | None) -> Json:
        """Apply documents, for a generation if one is given, and return what that did."""
        return self._change("POST", "policies", generation, content=_text(documents))

    def set_fields(self, name: str, fields: Json, generation: int | None) -> Json:
        """Change fields of a policy and return what that did."""
        return self._change("POST", f"policies/{name}/set", generation, json={"set": fields})

    def rollback(self, name: str, revision: int | None, generation: int | None) -> Json:
        """Make an earlier revision of a policy a new one, and return what that did."""
        body = {} if revision is None else {"revision": revision}
        return self._change("POST", f"policies/{name}/rollback", generation, json=body)

    def remove(self, name: str, generation: int | None, kind: str = "policies") -> Json:
        """Remove a policy, or a document of another kind, and return what that did."""
        return self._change("DELETE", f"{kind}/{name}", generation)

    def bindings(self) -> list[Json]:
        """Return every binding that is written."""
        return self._ask("GET", "bindings")["bindings"]

    def halt(self, name: str) -> Json:
        """End the canary of a binding and return what was counted of it."""
        return self._change("POST", f"bindings/{name}/halt", None)

    def binding(self, name: str) -> Json:
        """Return one binding in detail."""
        return self._ask("GET", f"bindings/{name}")

    def wait(self, generation: int, seconds: float) -> None:
        """Return once every server of the store that is alive serves a generation or a later one.

        Raises:
            CommandError: They do not in time; names those that lag, and what they serve.
        """
        limit = time.monotonic() + seconds
        while behind := self._behind(generation):
            if time.monotonic() >= limit:
                raise CommandError(
                    f"generation {generation} is recorded, but not served everywhere after "
                    f"{seconds:g} s: {', '.join(behind)}. Apply the same again with --wait to go "
                    "on waiting"
                )
            time.sleep(POLL_SECONDS)

    def _behind(self, generation: int) -> list[str]:
        """Return who serves an older generation, and why if that is known."""
        served = self._ask("GET", "status")["generation"]
        others = self._ask("GET", "replicas")["replicas"]
        lagging = [one for one in others if one["alive"] and one["generation"] < generation]
        asked = [f"{self._url} serves {served}"] if served < generation else []
        return asked + [_laggard(one) for one in lagging if not one["self"]]

    def _change(self, method: str, path: str, generation: int | None, **more: Any) -> Json:
        headers = {} if generation is None else {"If-Match": f'"{generation}"'}
        return self._ask(method, path, headers=headers, timeout=CHANGE_SECONDS, **more)


def _laggard(replica: Json) -> str:
    why = f" ({replica['fault']})" if replica["fault"] else ""
    return f"{replica['id']} serves {replica['generation']}{why}"


def _text(documents: Sequence[Document]) -> str:
    """Return documents as one text of YAML; JSON is YAML."""
    return "\n---\n".join(json.dumps(document.content) for document in documents)
