"""``trimtab serve``: which words are the model and which are vLLM's."""

from typing import Any

import pytest
from typer.testing import CliRunner

from service import cli
from service.commands import serve as command
from service.commands.serve import (
    DEMO_OPTIONS,
    layers_of,
    model_and_options,
    with_demo_options,
)
from service.settings import SettingsError


def test_without_a_model_the_options_are_all_vllms() -> None:
    """The first option must not be taken for the model."""
    assert model_and_options("--enforce-eager", ["-cc.mode", "3"]) == (
        None,
        ["--enforce-eager", "-cc.mode", "3"],
    )
    assert model_and_options("folder", ["--dtype", "float32"]) == ("folder", ["--dtype", "float32"])
    assert model_and_options(None, []) == (None, [])


@pytest.mark.parametrize("given", [["--dtype", "bfloat16"], ["--dtype=bfloat16"]])
def test_the_users_options_win_over_the_demos(given: list[str]) -> None:
    """An option that the user gives is given once."""
    options = with_demo_options(given)
    assert options[-len(given) :] == given
    assert "float32" not in options
    assert sum(option.startswith("--dtype") for option in options) == 1
    assert set(DEMO_OPTIONS) - {"--dtype"} <= set(options)


def test_the_command_line_reaches_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the program itself: ours are parsed, the rest is passed on in order."""
    seen: list[Any] = []

    def run(settings: Any, options: list[str], is_demo: bool, generated: str | None) -> None:
        seen.append((settings, options, is_demo, generated))

    monkeypatch.setattr(command, "_run", run)
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", "key")
    arguments = ["serve", "--enforce-eager", "--max-num-seqs", "8", "--port", "8100"]
    arguments += ["--merge-layers", "2, 3"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    [(settings, options, is_demo, generated)] = seen
    assert settings.port == 8100 and is_demo and generated is None
    assert settings.merge_layers == (2, 3)
    assert options[-3:] == ["--enforce-eager", "--max-num-seqs", "8"]


@pytest.mark.parametrize("listed", ["2;3", "two", "-1", "1.5", "²"])
def test_a_list_that_names_no_layers_is_refused(listed: str) -> None:
    """A layer that is not named cannot be merged into later, so a slip must not pass."""
    assert layers_of("") == () and layers_of("0,5") == (0, 5)
    with pytest.raises(SettingsError, match="is not a list of layers: write 0-based numbers"):
        layers_of(listed)


def test_an_address_that_others_reach_needs_an_admin_key_of_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key that is generated is printed: it does not count."""
    monkeypatch.delenv("TRIMTAB_ADMIN_KEY", raising=False)
    result = CliRunner().invoke(cli.app, ["serve", "--host", "0.0.0.0", "--api-key", "k"])
    assert isinstance(result.exception, SettingsError)
