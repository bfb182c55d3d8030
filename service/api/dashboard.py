"""The dashboard's files: read once, served with a policy that lets nothing else run or load.

Its log-in page and what that page needs are open; all else needs a key or a session. There is no
data in any of them: pages ask the operations for it, with the rights of whoever looks.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from service.api.errors import HttpError

FOLDER = "dashboard"
LOGIN = "login"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        "object-src 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


class DashboardRoutes:
    """Handlers."""

    def __init__(self) -> None:
        """Read every file."""
        self._files = _read(Path(str(files("service"))) / FOLDER)

    async def root(self, request: Request) -> Response:
        """Send a browser to the folder, so that what pages name is found beside them."""
        return RedirectResponse("dashboard/", 307)

    async def file(self, request: Request) -> Response:
        """Answer with a file; a folder is its ``index.html``, the log-in page has no ending."""
        name = request.path_params.get("file") or "index.html"
        return self._answer(request, name)

    async def open(self, request: Request) -> Response:
        """Answer with a file that is open."""
        name = request.url.path.rsplit("/", 1)[1]
        return self._answer(request, f"{LOGIN}.html" if name == LOGIN else name)

    def _answer(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise HttpError(404, "not_served", f"{request.url.path} is not served")
        headers = HEADERS | {"etag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type=found.media_type, headers=headers)


def to_login(path: str, scope: Scope, error: HttpError) -> Response | None:
    """Return what sends a browser that has no session to the log-in page; None for others."""
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    if error.status != 401 or not path.startswith("/dashboard") or b"text/html" not in accept:
        return None
    location = LOGIN if path.startswith("/dashboard/") else f"dashboard/{LOGIN}"
    return RedirectResponse(location, 303, headers={"cache-control": "no-store"})


def _read(folder: Path) -> Mapping[str, _File]:
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in _TYPES]
    return {path.relative_to(folder).as_posix(): _file(path) for path in found}


def _file(path: Path) -> _File:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, _TYPES[path.suffix], etag)
