"""Keys: who is the operator, and who may ask for inference. Only digests are kept."""

import secrets
from collections.abc import Iterable
from hashlib import sha256

from starlette.datastructures import Headers

from service.api.errors import HttpError
from service.settings import ADMIN_KEY

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Keys:
    """The admin key, and vLLM's own inference keys if there are any."""

    def __init__(self, admin: str | None, inference: Iterable[str], is_loopback: bool) -> None:
        """Keep digests; without an admin key no operation is served."""
        self._admin = [_digest(admin)] if admin else []
        self._inference = [_digest(key) for key in inference]
        self._is_open = is_loopback and not self._inference

    def check_admin(self, headers: Headers) -> None:
        """Refuse a request without the admin key.

        Raises:
            HttpError: 401 without a key, 403 with another one.
        """
        given = _bearer(headers)
        if given is None:
            message = f"this route needs the admin key ({ADMIN_KEY}): Authorization: Bearer <key>"
            raise HttpError(401, "missing_key", message, headers=_CHALLENGE)
        if not _matches(given, self._admin):
            message = f"the key given is not the admin key ({ADMIN_KEY})"
            raise HttpError(403, "wrong_key", message)

    def check_inference(self, headers: Headers) -> None:
        """Refuse inference to whoever has no key, unless the server is on loopback without keys.

        vLLM checks its key again, but only under some prefixes.

        Raises:
            HttpError: 401.
        """
        if self._is_open:
            return
        given = _bearer(headers)
        if given is None or not _matches(given, self._inference):
            message = "inference needs a key here (--api-key): Authorization: Bearer <key>"
            raise HttpError(401, "invalid_key", message, headers=_CHALLENGE)


def _bearer(headers: Headers) -> bytes | None:
    """Return the digest of the key that a request carries."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return _digest(key.strip()) if scheme.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def _matches(given: bytes, known: list[bytes]) -> bool:
    """Compare with every key, so that time tells nothing."""
    return bool(sum(secrets.compare_digest(given, one) for one in known))
