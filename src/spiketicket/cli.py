"""What the four commands share: how they look, and how they fail."""

import functools
import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from spiketicket.errors import SpikeTicketError

P = ParamSpec("P")
R = TypeVar("R")

out = Console()
err = Console(stderr=True)

EXIT_MISTAKE = 1
EXIT_INTERRUPTED = 130


def make_app(text: str) -> typer.Typer:
    """A command line application: -h and --help, plain tracebacks for bugs."""
    return typer.Typer(
        help=text,
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A user's mistake ends a command with one line and exit code 1; Ctrl-C with exit code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SpikeTicketError as error:
            fail(str(error))
            raise typer.Exit(EXIT_MISTAKE) from error
        except MemoryError as error:
            fail("not enough memory: try a smaller batch or fewer timesteps")
            raise typer.Exit(EXIT_MISTAKE) from error
        except KeyboardInterrupt as error:
            fail("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from error

    return run


def fail(message: str) -> None:
    """Print one error line to stderr."""
    err.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a result for programs to read, and nothing else, to stdout."""
    typer.echo(json.dumps(value, indent=2))


def human_bytes(count: int) -> str:
    """1,234,567 -> '1.23 MB'."""
    if count < 1000:
        return f"{count} B"
    size, unit = count / 1000, "kB"
    if size >= 1000:
        size, unit = size / 1000, "MB"
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
