"""Logs as JSON objects in every process of a server, vLLM's own among them.

vLLM's processes configure their logs from a file, which must be there as long as any may start.
"""

import json
import logging.config
import tempfile
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import vllm.envs as envs
from vllm.config.logging import LoggingConfig

from service.engine.refusals import RefusedOptionError
from service.json_log import configuration

_SAYS = "it writes what was said, which logs of a server of policies do not hold"
_TEXT = "leave it out, or use --log-format text"


@contextmanager
def json_logs(args: Namespace) -> Generator[None]:
    """Log as JSON from here on, in this process and in those that are started with ``args``.

    Raises:
        RefusedOptionError: An option asks for lines that hold text, or for another form.
    """
    _refuse(args)
    made = configuration(_level(args), access=not args.disable_uvicorn_access_log)
    with tempfile.TemporaryDirectory(prefix="trimtab-log-") as folder:
        path = Path(folder) / "logging.json"
        path.write_text(json.dumps(made))
        args.logging_config = LoggingConfig(log_level="INFO", pylogging_config_file=str(path))
        args.disable_uvicorn_access_log = True  # a request has one line, and it is ours
        logging.config.dictConfig(made)
        yield


def _level(args: Namespace) -> str:
    given: LoggingConfig | None = getattr(args, "logging_config", None)
    named = getattr(args, "log_level", None)
    return named or (given.log_level if given is not None else envs.VLLM_LOGGING_LEVEL)


def _refuse(args: Namespace) -> None:
    given: Any = getattr(args, "logging_config", None)
    file = getattr(args, "log_config_file", None) or envs.VLLM_LOGGING_CONFIG_PATH
    asked = {
        "--enable-log-requests": (args.enable_log_requests, _SAYS),
        "--enable-log-outputs": (args.enable_log_outputs, _SAYS),
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": (envs.VLLM_DEBUG_LOG_API_SERVER_RESPONSE, _SAYS),
        "--log-level DEBUG": (_level(args) in ("DEBUG", "NOTSET"), _SAYS),
        "a file for Python's logging": (
            bool(file or (given is not None and given.pylogging_config_file)),
            "two forms of the same lines were asked for",
        ),
    }
    refused = [
        f"{what} with --log-format json is refused: {why}; {_TEXT}"
        for what, (is_asked, why) in asked.items()
        if is_asked
    ]
    if refused:
        raise RefusedOptionError("\n".join(refused))
