"""What a role may not do on a route that it may call: decided by what the request holds."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from service.api.admission import check_role
from service.callers import Caller
from service.documents import Document
from service.schemas import Kind

ADMINS_KINDS: frozenset[Kind] = frozenset({"Binding"})
"""A binding decides what is mandatory for whom, so that it is above who writes policies."""

_MODE = re.compile(r"(monitors\.[a-z0-9-]+\.)?mode")


def check_documents(caller: Caller, documents: Iterable[Document]) -> None:
    """Refuse documents of a kind that asks for more than the route did.

    Raises:
        HttpError: 403.
    """
    for document in documents:
        if document.kind in ADMINS_KINDS:
            check_role(caller, "admin", f"a document of kind {document.kind}")


def check_fields(caller: Caller, fields: Mapping[str, Any]) -> None:
    """Refuse a change of fields that are not modes to whoever may not write policies.

    Raises:
        HttpError: 403.
    """
    for field in fields:
        if not _MODE.fullmatch(field):
            check_role(caller, "author", f"changing '{field[:80]}', which is no mode,")
