"""Log lines as JSON: one object a record, whatever is in it."""

import json
import logging
import logging.config
from collections.abc import Iterator
from datetime import datetime

import pytest

from service.handling import HANDLING, Handling
from service.json_log import ACCESS, FIELDS, JsonFormatter, configuration, unlogged


@pytest.fixture
def restored() -> Iterator[None]:
    """Give the process its loggers back."""
    names = ("", "vllm", "uvicorn", "uvicorn.error", "uvicorn.access", ACCESS, "httpx")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagates in before:
        one.handlers[:], one.propagate = handlers, propagates
        one.setLevel(level)


def line(record: logging.LogRecord) -> dict[str, object]:
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def record(message: str = 'one\n"two" ‮', **more: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.WARNING, "x.py", 1, message, (), None)
    made.__dict__.update(more)
    return made


def test_a_line_is_one_object_whatever_the_message_holds() -> None:
    found = line(record())
    assert (found["level"], found["logger"]) == ("WARNING", "service.x")
    assert found["message"] == 'one\n"two" ‮'
    at = datetime.fromisoformat(str(found["time"]))
    assert at.tzinfo is not None and at.timestamp() == pytest.approx(record().created, abs=5)
    assert "request" not in found and "error" not in found
    assert line(record(**{FIELDS: {"status": 200}}))["status"] == 200


def test_an_error_is_in_its_line() -> None:
    try:
        raise ValueError("lost")
    except ValueError as error:
        made = record(exc_info=(ValueError, error, error.__traceback__))
    assert str(line(made)["error"]).endswith("ValueError: lost")


def test_a_line_names_the_request_under_way_and_no_other() -> None:
    handling = Handling("a1", ("guard@2",))
    token = HANDLING.set(handling)
    try:
        found = line(record())
        assert (found["request"], found["policies"]) == ("a1", ["guard@2"])
        handling.is_over = True
        assert "request" not in line(record())
    finally:
        HANDLING.reset(token)


def test_every_logger_speaks_json_and_once(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    vllm = logging.getLogger("vllm")
    vllm.addHandler(logging.StreamHandler())
    vllm.propagate = False
    logging.config.dictConfig(configuration())
    for name in ("vllm.engine", "uvicorn.error", "service.api", "elsewhere", ACCESS):
        logging.getLogger(name).info("said")
    for name in ("uvicorn.access", "httpx"):
        logging.getLogger(name).info("unsaid")
    logging.getLogger("service.api").debug("unsaid")
    out, err = capsys.readouterr()
    lines = [json.loads(one) for one in out.splitlines()]
    assert [one["logger"] for one in lines] == [
        *("vllm.engine", "uvicorn.error", "service.api", "elsewhere", ACCESS)
    ]
    assert {one["message"] for one in lines} == {"said"} and not err


def test_access_lines_can_be_left_out(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(configuration("WARNING", access=False))
    logging.getLogger(ACCESS).info("unsaid")
    logging.getLogger("service.api").info("unsaid")
    logging.getLogger("service.api").warning("said")
    assert json.loads(capsys.readouterr().out)["message"] == "said"
    assert unlogged(" /health, /metrics,") == ("/health", "/metrics") and unlogged("") == ()
