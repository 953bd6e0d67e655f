"""Make the options of a command from dataclasses, so that names, defaults and help texts are written once."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

R = TypeVar("R")


def option(help: str, *names: str, default: Any = None, show_default: bool | str = True) -> Any:
    """Return a field of a dataclass of options.

    `names` are given if they are not made from the field's name, as for a flag without its opposite.
    """
    return field(default=default, metadata={"names": names, "help": help, "show_default": show_default})


def parameter(name: str, kind: Any, default: Any, names: Iterable[str] = (), **settings: Any) -> inspect.Parameter:
    """Return a parameter of a command's signature, which typer reads as an option. `settings` are those of
    `typer.Option`.
    """
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*names, **settings)],
    )


def declare(command: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> None:
    """Set the signature of the command, with keywords only."""
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own}


def grouped(command: Callable[..., R]) -> Callable[..., R | None]:
    """Return a command that has an option for each field of the dataclasses among `command`'s parameters.

    `command` is called with the dataclasses. A dataclass's `PANEL` is the heading over its options in the help text. If
    the command is the callback of a group (it has a `context`) and a subcommand follows, nothing is checked and it is
    not called.
    """
    groups = {name: kind for name, kind in get_type_hints(command).items() if is_dataclass(kind)}

    @functools.wraps(command)
    def call(**values: Any) -> R | None:
        if "context" in values and values["context"].invoked_subcommand is not None:
            return None
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})  # type: ignore[operator]
        return command(**values)

    hints = get_type_hints(command, include_extras=True)
    declared: list[inspect.Parameter] = []
    for own in inspect.signature(command).parameters.values():
        if own.name in groups:
            declared += _options(groups[own.name])
        else:
            declared.append(own.replace(annotation=hints[own.name]))
    declare(call, declared)
    return call


def _options(group: Any) -> list[inspect.Parameter]:
    hints, panel = get_type_hints(group), getattr(group, "PANEL", None)
    return [
        parameter(
            f.name,
            hints[f.name],
            inspect.Parameter.empty if f.default is MISSING else f.default,
            rich_help_panel=panel,
            **f.metadata,
        )
        for f in fields(group)
    ]
