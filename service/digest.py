"""Identity of documents: canonical JSON and its sha256."""

import hashlib
import json

from service.errors import ServiceError


class CanonicalError(ServiceError):
    """A value that has no canonical JSON."""


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys, no spaces, ASCII escapes and floats in their shortest form.

    Keys must be strings: Python would write the key 3 and the key "3" alike.

    Raises:
        CanonicalError: A value is NaN or infinite, a key is no string, or JSON lacks the type.
    """
    _check_keys(value)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CanonicalError(f"no canonical JSON for this value: {error}") from error


def content_digest(value: object) -> str:
    """Return the sha256 of a value's canonical JSON in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _check_keys(value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CanonicalError(f"no canonical JSON: the key {key!r} is not a string")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
