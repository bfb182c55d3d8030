"""Who asks: the key that a request carries, and whose it is. Only digests of keys are kept.

A browser's session stands for the key that it was begun with; a key that is given counts first.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from service.api.cookies import COOKIE, HEADER, cookie_of, session_secret
from service.api.errors import HttpError
from service.callers import ANONYMOUS, OWNER, Caller
from service.database import StoreError
from service.keyring import KeyRing
from service.sessions import SessionStore
from service.settings import ADMIN_KEY

CALLER = "trimtab_caller"
"""Where a scope holds who asks; a client cannot write there."""
INFERENCE = Caller(name="inference key", role="infer")
"""Whoever has a key that vLLM was given."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Return who asks, as it was found out when the request was let in."""
    return scope.get(CALLER, ANONYMOUS)


class Keys:
    """The admin key of the environment, vLLM's own inference keys, and the keys in the store."""

    def __init__(
        self,
        admin: str | None,
        inference: Iterable[str],
        is_loopback: bool,
        ring: KeyRing,
        sessions: Callable[[bytes], SessionStore],
    ) -> None:
        """Keep digests; of vLLM's keys one as it is, since vLLM asks for it again.

        ``sessions`` opens the sessions for a digest of the admin key.
        """
        inference = tuple(inference)
        self._admin = [_digest(admin)] if admin else []
        self._inference = [_digest(key) for key in inference]
        self._for_vllm = inference[0] if inference else None
        self._is_loopback = is_loopback
        self.ring = ring
        self.sessions = sessions(b"".join(self._admin))

    @property
    def is_open(self) -> bool:
        """Whether inference needs no key: on loopback, until there is one.

        A key in the store that is revoked or expired counts: nothing opens by itself.
        """
        return self._is_loopback and not self._inference and self.ring.is_empty

    async def identify(self, headers: Headers, method: str) -> Caller:
        """Return whose key or session a request carries; nobody's if it has none that is known.

        Raises:
            HttpError: 400, it carries two different ones; 503, the store was never read.
        """
        given = bearer(headers)
        if given is not None and (known := self._given_at_start(given)) is not None:
            return known
        await self.ring.fresh()
        if not self.ring.is_read:
            message = f"the keys cannot be read: {self.ring.fault}"
            raise HttpError(503, "keys_unavailable", message)
        key = self.ring.find(given) if given is not None else None
        if given is None and (secret := session_secret(headers, method)) is not None:
            return await self._of_session(secret)
        return ANONYMOUS if key is None else key.caller()

    async def still(self, caller: Caller, headers: Headers) -> bool:
        """Whether a caller still has what let it in to read; for answers without an end."""
        if bearer(headers) is None:
            try:
                return await self.identify(headers, "GET") == caller
            except HttpError:
                return False  # it is asked again by who comes back
        if not caller.key:
            return True
        await self.ring.fresh()
        return self.ring.is_live(caller.key)

    def admitted(self, scope: Scope, caller: Caller) -> Scope:
        """Return the scope with who asks, and with a key of vLLM's if it checks one itself."""
        scope = {**scope, CALLER: caller}
        if self._for_vllm is None or caller.role is None:
            return scope
        kept = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        shown = (b"authorization", f"Bearer {self._for_vllm}".encode())
        return {**scope, "headers": [*kept, shown]}

    async def _of_session(self, secret: str) -> Caller:
        try:
            session = await asyncio.to_thread(self.sessions.find, secret)
        except StoreError as error:
            message = f"the sessions cannot be read: {error}"
            raise HttpError(503, "keys_unavailable", message) from error
        if session is None:
            return ANONYMOUS
        if not session.key:
            return OWNER if self._admin else ANONYMOUS
        key = self.ring.live(session.key)
        return ANONYMOUS if key is None else key.caller()

    def _given_at_start(self, key: str) -> Caller | None:
        # Compared with every key, so that time tells nothing.
        is_admin = _matches(_digest(key), self._admin)
        is_inference = _matches(_digest(key), self._inference)
        return OWNER if is_admin else INFERENCE if is_inference else None


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
    if cookie_of(headers) is not None:
        message = (
            f"{needs}: the session in the cookie {COOKIE} is over, or this is a change without the "
            f"header {HEADER}, or it comes from another site; log in at /dashboard/login"
        )
        return HttpError(401, "no_session", message, headers=_CHALLENGE)
    message = f"{needs}: Authorization: Bearer <key> (the admin key, {ADMIN_KEY}, has every right)"
    return HttpError(401, "missing_key", message, headers=_CHALLENGE)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _matches(given: bytes, known: list[bytes]) -> bool:
    return bool(sum(secrets.compare_digest(given, one) for one in known))
