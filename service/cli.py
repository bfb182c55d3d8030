"""The program ``trimtab``.

Commands that need torch or vLLM are imported when they are called, not when they are listed.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from service.commands import artifact, audit, binding, decision, demo, key, policy
from service.commands.output import print_error
from service.errors import ServiceError

# Options that a command does not know are left in ``typer.Context.args``, for vLLM.
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


class Deferred(TyperCommand):
    """A command that stands for ``target`` of a module until it is called.

    The target is a ``typer.Typer`` or one command's function; a function gets what it does not
    know of the command line through its ``typer.Context``.
    """

    def __init__(self, name: str, module: str, target: str, help: str) -> None:
        """Keep where the command is."""
        super().__init__(name, help=help)
        self._module, self._target = module, target

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Return the context of the real command, whose invocation then runs."""
        return self._load().make_context(info_name, args, parent, **extra)

    def _load(self) -> Any:
        target = getattr(import_module(self._module), self._target)
        holder = typer.Typer()
        if isinstance(target, typer.Typer):
            holder.add_typer(target, name=self.name)
        else:
            holder.command(self.name, context_settings=PASS_THROUGH)(target)
        return typer.main.get_group(holder).commands[str(self.name)]


class Program(TyperGroup):
    """The commands, the deferred ones first."""

    def __init__(self, **settings: Any) -> None:
        """Add the deferred commands to those of the application."""
        super().__init__(**settings)
        known = dict(self.commands)
        self.commands.clear()
        for command in _deferred():
            self.add_command(command)
        self.commands.update(known)


def _deferred() -> tuple[Deferred, ...]:
    return (
        Deferred(
            "serve",
            "service.commands.serve",
            "serve",
            "Serve a model, steered by the policies of a directory.",
        ),
        Deferred(
            "bench",
            "service.commands.bench",
            "bench",
            "Compare the speed of policies with plain vLLM's.",
        ),
        Deferred(
            "direction",
            "service.commands.direction",
            "app",
            "Make, import and look at directions.",
        ),
        Deferred(
            "edit",
            "service.commands.edit",
            "app",
            "Solve, evaluate, list and remove edits.",
        ),
        Deferred(
            "sae",
            "service.commands.sae",
            "app",
            "Train, import and look at sparse autoencoders.",
        ),
        Deferred(
            "monitor",
            "service.commands.monitor",
            "app",
            "Fit, calibrate, evaluate and look at monitors.",
        ),
    )


app = typer.Typer(
    name="trimtab",
    cls=Program,
    help="Serve a language model and steer it under policies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(policy.app, name="policy")
app.add_typer(binding.app, name="binding")
app.add_typer(artifact.app, name="artifact")
app.add_typer(audit.app, name="audit")
app.add_typer(decision.app, name="decision")
app.add_typer(key.app, name="key")
app.add_typer(demo.app, name="demo")


def main() -> None:
    """Run the program: exit code 0 for success, 1 for an error, 2 for a wrong command line."""
    try:
        app()
    except ServiceError as error:
        print_error(f"error: {error}")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
