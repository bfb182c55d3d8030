"""The cookie of a browser's session: when it counts, how it is set and taken away."""

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from service.sessions import HOURS

COOKIE = "trimtab_session"
HEADER = "x-trimtab-session"
"""What a request that changes something has beside the cookie, with any value.

No page of another origin can have a browser send it: that takes a preflight, which is refused.
"""
_READS = ("GET", "HEAD")
_OWN = ("same-origin", "none")


def session_secret(headers: Headers, method: str) -> str | None:
    """Return a session's secret where a request's cookie counts, else None.

    Not from another origin, the same host's other ports among them, and not for a change unless
    the request has ``HEADER``.
    """
    if headers.get("sec-fetch-site", "none") not in _OWN:
        return None
    if method not in _READS and HEADER not in headers:
        return None
    return cookie_of(headers)


def cookie_of(headers: Headers) -> str | None:
    """Return what the cookie holds, whether or not it counts."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE) or None


def set_cookie(response: Response, scope: Scope, secret: str) -> None:
    """Give a browser its session; scripts cannot read it, and no other site can have it sent."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(HOURS * 3600),
        path="/",
        secure=scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


def clear_cookie(response: Response) -> None:
    """Have a browser forget its session."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
