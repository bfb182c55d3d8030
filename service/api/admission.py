"""Lets a request in or refuses it: by the table of routes, then by who asks and what they may."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from service.api.access import Access, Route
from service.api.errors import HttpError
from service.api.keys import Keys, no_key
from service.api.roles import Permissions
from service.callers import ANONYMOUS, ROLES, Caller, Role

_OPEN = {Access.PUBLIC, Access.PROBE}
_INFERENCE = {Access.INFERENCE, Access.MODELS, Access.TOKENS, Access.GENERATE}


class Admission:
    """Who may call what. What no table names is refused."""

    def __init__(self, keys: Keys) -> None:
        """Ask ``keys`` who somebody is."""
        self._keys, self._permissions = keys, Permissions()

    async def admit(self, route: Route, path: str, scope: Scope) -> Caller:
        """Return who asks.

        Raises:
            HttpError: 400, 401, 403, 404 or 405.
        """
        if route.access is Access.UNKNOWN:
            raise _not_served(path)
        if route.access is Access.CLOSED:
            raise HttpError(403, "route_closed", f"{path} is closed: {route.reason}")
        headers, method = Headers(scope=scope), str(scope["method"])
        caller = ANONYMOUS
        if route.access is Access.OPERATIONS:
            return await self._operation(path, method, headers)
        if route.access is Access.ADMIN:
            caller = await self._keys.identify(headers, method)
            _check_role(caller, "admin", f"{method} {path}", headers)
        elif route.access not in _OPEN and not is_preflight(route, method):
            caller = await self._inference(headers, method)
        if method not in route.methods and not is_preflight(route, method):
            raise _wrong_method(method, path, route.methods)
        return caller

    async def _inference(self, headers: Headers, method: str) -> Caller:
        caller = await self._keys.identify(headers, method)
        if caller.role is None and not self._keys.is_open:
            raise no_key(headers, "inference needs a key here")
        return caller

    async def _operation(self, path: str, method: str, headers: Headers) -> Caller:
        """Find out the least role first: whoever may do nothing here learns nothing either."""
        caller = await self._keys.identify(headers, method)
        _check_role(caller, "viewer", "an operation", headers)
        least = self._permissions.of(path)
        if not least:
            raise _not_served(path)
        if method not in least:
            raise _wrong_method(method, path, least)
        _check_role(caller, least[method], f"{method} {path}", headers)
        return caller


def is_preflight(route: Route, method: str) -> bool:
    """Whether a request only asks what a browser may send; it carries no key."""
    return method == "OPTIONS" and route.access in _INFERENCE


def check_role(caller: Caller, least: Role, what: str) -> None:
    """Refuse a caller whose role is too small for something that its route alone does not show.

    Raises:
        HttpError: 403.
    """
    if not caller.may(least):
        message = (
            f"{what} needs a key with role {least}; '{caller.name}' has "
            f"{caller.role or 'none'}: roles are {', '.join(ROLES)}, each with the rights before it"
        )
        raise HttpError(403, "role_too_small", message)


def _check_role(caller: Caller, least: Role, what: str, headers: Headers) -> None:
    if caller.role is None:
        raise no_key(headers, f"{what} needs a key with role {least}")
    check_role(caller, least, what)


def _not_served(path: str) -> HttpError:
    return HttpError(404, "not_served", f"{path} is not served")


def _wrong_method(method: str, path: str, methods: Iterable[str]) -> HttpError:
    allowed = ", ".join(sorted(methods))
    message = f"{method} is not served at {path}: use {allowed}"
    return HttpError(405, "method_not_allowed", message, headers={"Allow": allowed})
