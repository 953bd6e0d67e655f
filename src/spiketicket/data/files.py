"""Find the files of a data set: in its folder, or in the official archive, which is checked and unpacked beside it."""

import hashlib
import os
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from spiketicket.errors import DataError
from spiketicket.files import PARTIAL_SUFFIX


@dataclass(frozen=True)
class Distribution:
    """One way in which a data set is distributed: its folder and, if there is one, its archive with the MD5."""

    folder: str
    archive: str = ""
    md5: str = ""


def locate(name: str, base: Path, forms: tuple[Distribution, ...], page: str) -> tuple[Path, Distribution]:
    """Return the first of `forms` whose folder is in `base`; otherwise the first whose archive is, unpacked.

    Raises DataError if there is neither (it names `page`, the download page), or the archive is not
    the official one.
    """
    for form in forms:
        if os.path.isdir(base / form.folder):  # noqa: PTH112  # false, not an error, where `base` cannot be read
            return base / form.folder, form
    for form in forms:
        if form.archive and os.path.isfile(base / form.archive):  # noqa: PTH113
            return _unpack(base / form.archive, form, page), form
    folders = " or ".join(str(base / form.folder) for form in forms)
    archives = " or ".join(form.archive for form in forms if form.archive)
    raise DataError(
        f"data set {name} not found: expected the folder {folders}{archives and f', or the archive {archives} there'} "
        f"(--data DIR names the folder above); get it from {page}"
    )


def md5(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal. Raises DataError if it cannot be read."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read data file {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _unpack(archive: Path, form: Distribution, page: str) -> Path:
    """Unpack into a temporary folder and rename it: the folder is either missing or complete."""
    found, folder = md5(archive), archive.parent / form.folder
    if found != form.md5:
        raise DataError(f"{archive}: its MD5 is {found}, the official one {form.md5}; get it again from {page}")
    try:
        with tempfile.TemporaryDirectory(PARTIAL_SUFFIX, f".{form.folder}.", archive.parent) as partial:
            _extract(archive, Path(partial))
            _rename(Path(partial) / form.folder, folder)
    except Exception as error:  # a damaged archive can raise almost anything
        raise DataError(f"cannot unpack {archive} beside it: {getattr(error, 'strerror', None) or error}") from error
    return folder


def _extract(archive: Path, target: Path) -> None:
    """Extract into `target` and nowhere else: tar's data filter refuses such names, zipfile takes the ../ off them."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(target)
    else:
        with tarfile.open(archive) as tarred:
            tarred.extractall(target, filter="data")


def _rename(unpacked: Path, folder: Path) -> None:
    try:
        unpacked.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process unpacked it meanwhile
            raise
