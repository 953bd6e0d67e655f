"""The errors that a user can cause. Every message names the thing, what was expected, and what came."""

from collections.abc import Iterator
from contextlib import contextmanager


class SpikeTicketError(Exception):
    """A mistake that the user can correct. Commands print it as one line and exit with code 1."""


class TicketError(SpikeTicketError):
    """A ticket or checkpoint file is damaged, foreign, or does not fit its network."""


class ModelError(SpikeTicketError):
    """A model file or sparse graph is damaged, foreign, or inconsistent."""


class DataError(SpikeTicketError):
    """A data set is unknown, missing or damaged."""


class InputError(SpikeTicketError, ValueError):
    """An argument has the wrong type, shape or range."""


class VerificationError(SpikeTicketError):
    """Two engines that must agree differ."""


class MissingExtraError(SpikeTicketError, ImportError):
    """An optional package is needed and is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'spiketicket[{extra}]'")


@contextmanager
def extra(name: str, purpose: str, package: str = "") -> Iterator[None]:
    """Turn a failed import into a MissingExtraError: `purpose` needs `package`, which the extra `name` installs.

    `package` is pip's name for it, needed if its module has another name or another module is missing with it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(package or error.name or "a package", name, purpose) from error


class DeviceError(SpikeTicketError):
    """There is no GPU, or it cannot do what was asked for."""


class NotBuiltError(SpikeTicketError, ImportError):
    """An optional part of this installation was left out when it was built."""


class OutOfTimeError(SpikeTicketError):
    """A time budget is used up. What was done is on disk."""
