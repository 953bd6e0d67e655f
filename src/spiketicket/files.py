"""Write files so that a reader never sees a half-written one; read files with errors that name them."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from spiketicket.errors import SpikeTicketError

PARTIAL_SUFFIX = ".partial"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that `path` holds either its old content or all of the new one.

    A link stays a link: what it points to is replaced. Raises SpikeTicketError if the folder cannot
    be written, the disk is full, or `path` is not a plain file; the temporary file is removed then.
    """
    temporary: Path | None = None
    try:
        target = path.resolve()
        folder = target.parent
        if target.exists() and not target.is_file():
            raise SpikeTicketError(f"cannot write {path}: it is not a plain file")
        if folder.exists() and not folder.is_dir():
            raise SpikeTicketError(f"cannot write {path}: {folder} is not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(PARTIAL_SUFFIX, f".{target.name}.", folder)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide the file from the user's group
        temporary.replace(target)
        temporary = None
        _sync_folder(folder)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL byte
        raise SpikeTicketError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def cache_folder(kind: str) -> Path | None:
    """Return the folder of the user's caches of this `kind`; None if the user has no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spiketicket" / kind
    except RuntimeError:
        return None


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system allows to sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bytes(path: Path, what: str, error: type[SpikeTicketError]) -> bytes:
    """Return the content of `path`. Raises `error`, which says that this `what` cannot be read and why."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror or cause}") from cause


def read_json(path: Path, what: str, error: type[SpikeTicketError]) -> dict[str, Any]:
    """Return the object in the JSON file `path`. Raises `error`, which says why it is no such `what`."""
    content = read_bytes(path, what, error)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is damaged, or no {what}: expected JSON ({cause})") from cause
    if not isinstance(found, dict):
        raise error(f"{path} is damaged, or no {what}: expected a JSON object, got {type(found).__name__}")
    return found
