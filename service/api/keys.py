"""Who asks: the key that a request carries, and whose it is. Only digests of keys are kept."""

import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from service.api.errors import HttpError
from service.callers import ANONYMOUS, OWNER, Caller
from service.settings import ADMIN_KEY

CALLER = "trimtab_caller"
"""Where a scope holds who asks; a client cannot write there."""
INFERENCE = Caller(name="inference key", role="infer")
"""Whoever has a key that vLLM was given."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Return who asks, as it was found out when the request was let in."""
    return scope.get(CALLER, ANONYMOUS)


def with_caller(scope: Scope, caller: Caller) -> Scope:
    """Return the scope with who asks."""
    return {**scope, CALLER: caller}


class Keys:
    """The admin key of the environment and vLLM's own inference keys."""

    def __init__(self, admin: str | None, inference: Iterable[str], is_loopback: bool) -> None:
        """Keep digests."""
        self._admin = [_digest(admin)] if admin else []
        self._inference = [_digest(key) for key in inference]
        self._is_loopback = is_loopback

    @property
    def is_open(self) -> bool:
        """Whether inference needs no key: on loopback, as long as there is none."""
        return self._is_loopback and not self._inference

    async def identify(self, headers: Headers) -> Caller:
        """Return whose key a request carries; nobody's if it has none or an unknown one.

        Raises:
            HttpError: 400, it carries two different ones.
        """
        given = bearer(headers)
        if given is None:
            return ANONYMOUS
        # Compared with every key, so that time tells nothing.
        is_admin = _matches(_digest(given), self._admin)
        is_inference = _matches(_digest(given), self._inference)
        if is_admin:
            return OWNER
        return INFERENCE if is_inference else ANONYMOUS


def bearer(headers: Headers) -> str | None:
    """Return the key that a request carries.

    Raises:
        HttpError: 400, it has several ``Authorization`` headers that differ: whoever stands before
            or behind this server might read another one.
    """
    given = set(headers.getlist("authorization"))
    if len(given) > 1:
        message = "the request has several Authorization headers: send one"
        raise HttpError(400, "ambiguous_key", message, "Authorization")
    scheme, _, key = next(iter(given), "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def no_key(headers: Headers, needs: str) -> HttpError:
    """Return the refusal of whoever is nobody; ``needs`` says what asks for a key."""
    if bearer(headers) is not None:
        message = "the key given is not valid here: it is unknown, expired or revoked"
        return HttpError(401, "invalid_key", message, headers=_CHALLENGE)
    message = f"{needs}: Authorization: Bearer <key> (the admin key, {ADMIN_KEY}, has every right)"
    return HttpError(401, "missing_key", message, headers=_CHALLENGE)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def _matches(given: bytes, known: list[bytes]) -> bool:
    return bool(sum(secrets.compare_digest(given, one) for one in known))
