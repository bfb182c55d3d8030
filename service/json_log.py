"""Log lines as JSON objects, one a line: ours, vLLM's and those of whatever else logs.

Plain text leaves it to the reader to know where a line ends and whose request it is about. A
configuration is a value that ``logging.config.dictConfig`` and vLLM's processes take.
"""

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from service.handling import HANDLING

LogFormat = Literal["text", "json"]

ACCESS = "trimtab.access"
"""Logger of the line that each request gets."""
FIELDS = "fields"
"""Attribute of a record with members of its own, as ``extra={FIELDS: {...}}`` sets it."""
_CHATTY = ("httpx", "httpcore", "alembic")
"""Libraries whose lines below a warning tell nothing of a server."""


class JsonFormatter(logging.Formatter):
    """Makes a line of a record: time (RFC 3339, UTC), level, logger, message, and what else is so.

    ``request`` and ``policies`` are those of the request under way; ``error`` is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object, without a line break."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": getattr(record, "vllm_process_name", None) or record.processName,
            "pid": record.process,
            **_request(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _request() -> dict[str, Any]:
    handling = HANDLING.get()
    if handling is None or handling.is_over:
        return {}
    policies = {"policies": list(handling.policies)} if handling.policies else {}
    return {"request": handling.request, **policies}


def configuration(level: str = "INFO", *, access: bool = True) -> dict[str, Any]:
    """Return a configuration in which every logger's lines are JSON on standard output.

    Args:
        level: The least level that is written.
        access: Whether each request gets a line.
    """
    # Handlers that vLLM or uvicorn gave their loggers go: the root's is the only one.
    open_up = {"handlers": [], "propagate": True}
    quiet = {"level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.{JsonFormatter.__name__}"}},
        "handlers": {
            "json": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["json"], "level": level},
        "loggers": {
            **{name: open_up | {"level": level} for name in ("vllm", "uvicorn")},
            "uvicorn.error": open_up | {"level": level},
            "uvicorn.access": open_up | quiet,  # the access line is ours: it knows the request
            **dict.fromkeys(_CHATTY, quiet),
            ACCESS: {} if access else quiet,
        },
    }


def unlogged(paths: str) -> Iterable[str]:
    """Return the paths of a list such as ``/health,/metrics``."""
    return tuple(path for part in paths.split(",") if (path := part.strip()))
