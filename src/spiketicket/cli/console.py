"""What the four commands have in common: their output, and how they report errors."""

import functools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from spiketicket.errors import InputError, SpikeTicketError

P = ParamSpec("P")
R = TypeVar("R")

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)

EXIT_MISTAKE = 1
EXIT_INTERRUPTED = 130
OUT_OF_MEMORY = "not enough memory: try a smaller batch, a narrower network or fewer timesteps"


def make_app(text: str) -> typer.Typer:
    """Return a command line application with -h and --help, and plain tracebacks for bugs."""
    return typer.Typer(
        help=text,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Return `command` so that a user's mistake ends it with one line and exit code 1, and Ctrl-C with code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SpikeTicketError as error:
            fail(str(error))
            raise typer.Exit(EXIT_MISTAKE) from error
        except MemoryError as error:
            fail(OUT_OF_MEMORY)
            raise typer.Exit(EXIT_MISTAKE) from error
        except BrokenPipeError as error:  # the reader of our output has seen enough
            raise typer.Exit(EXIT_MISTAKE) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            fail(f"{error.strerror or error}{where}")
            raise typer.Exit(EXIT_MISTAKE) from error
        except RuntimeError as error:
            if "allocate" not in str(error):  # how torch says that memory is short
                raise
            fail(OUT_OF_MEMORY)
            raise typer.Exit(EXIT_MISTAKE) from error
        except KeyboardInterrupt as error:
            fail("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from error

    return run


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send Ctrl-C once more, because Python drops one that comes inside a `__del__` or a weak reference's callback."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def run_app(app: typer.Typer) -> None:
    """Run a command line; an unknown option or a missing argument, too, ends with one line and exit code 1."""
    sys.unraisablehook = _interrupt_again
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        fail(f"{error.format_message()} (-h shows the usage)")
        code = EXIT_MISTAKE
    sys.exit(code if isinstance(code, int) else 0)


def whole_numbers(name: str, text: str) -> list[int]:
    """Return the numbers of an option such as 1,3,5. Raises InputError, which names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name}: expected whole numbers separated by commas, got {text!r}") from error


def number_ranges(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers of an option such as 1,3,5 or 1-5 or both, in its order. Raises InputError, which names the
    option.
    """
    numbers: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        try:
            first = int(low)
            last = int(high) if dash else first
        except ValueError as error:
            raise InputError(f"{name}: expected whole numbers as in 1,3 or 1-5, got {text!r}") from error
        if last < first:
            raise InputError(f"{name}: expected a rising range, got {part.strip()!r}")
        numbers += range(first, last + 1)
    return tuple(numbers)


def say(message: str) -> None:
    """Print one line of plain text to stdout, paths and names as they are."""
    out.print(message, markup=False, highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print one error to stderr: a line, and another for each that a message lists, indented by two spaces."""
    text = "\n  ".join(" ".join(line.split()) for line in re.split(r"\n(?=  )", message))
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a result for programs to read, and nothing else, to stdout."""
    typer.echo(json.dumps(value, indent=2))
