"""Writing files so that a reader never meets a half-written one."""

import contextlib
import os
import tempfile
from pathlib import Path

from spiketicket.errors import SpikeTicketError

PARTIAL_SUFFIX = ".partial"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that `path` holds either its old content or all of the new one.

    Raises SpikeTicketError where the folder cannot be written or the disk is full; the temporary
    file is removed then.
    """
    temporary: str | None = None
    if path.parent.exists() and not path.parent.is_dir():
        raise SpikeTicketError(f"cannot write {path}: {path.parent} is not a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(PARTIAL_SUFFIX, f".{path.name}.", path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's 0600 would hide the file from the user's group
        Path(temporary).replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise SpikeTicketError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system allows to sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bytes(path: Path, what: str, error: type[SpikeTicketError]) -> bytes:
    """The content of `path`; `error` says that this `what` cannot be read and why."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror or cause}") from cause
