"""Settings: what the server refuses to start with."""

from pathlib import Path

import pytest

from service.settings import (
    Environment,
    Headroom,
    Settings,
    SettingsError,
    check_host,
    is_loopback,
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_another_address_needs_an_admin_key() -> None:
    check_host("127.0.0.1", None)
    check_host("0.0.0.0", "k")
    with pytest.raises(SettingsError, match="set TRIMTAB_ADMIN_KEY, or bind"):
        check_host("0.0.0.0", None)


def test_the_environment_is_read_once_and_keeps_the_key_out_of_sight() -> None:
    environment = Environment.read({"TRIMTAB_ADMIN_KEY": "secret", "TRIMTAB_ARTIFACTS": "/a"})
    assert (environment.admin_key, environment.artifacts_folder) == ("secret", Path("/a"))
    assert Environment.read({"TRIMTAB_ADMIN_KEY": ""}).admin_key is None
    assert environment.url == Environment.read({"TRIMTAB_URL": " "}).url == "http://127.0.0.1:8000"
    assert Environment.read({"TRIMTAB_URL": "http://a:1"}).url == "http://a:1"
    assert "secret" not in repr(environment) + repr(Settings("m", admin_key="secret"))


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="port"):
        Settings("m", port=70000)
    with pytest.raises(SettingsError, match="is not there"):
        Settings("m", policies=tmp_path / "absent")
    for name in ("rows", "reads", "writes", "gates"):
        with pytest.raises(SettingsError, match=name):
            Headroom(**{name: -1})
