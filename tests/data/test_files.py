"""Official archives: checked, unpacked beside themselves whole or not at all, and never outside."""

import hashlib
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from spiketicket.data import cifar, load_dataset
from spiketicket.data import files as data_files
from spiketicket.data.files import Distribution, locate
from spiketicket.errors import DataError

PAGE = "https://example.org/page"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, Path):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)


def form(path, folder="box"):
    """A form whose official archive `path` is."""
    return Distribution(folder, path.name, hashlib.md5(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(("name", "write"), [("box.tar.gz", write_tar), ("box.zip", write_zip)])
def test_archive_is_unpacked_beside_itself(tmp_path, name, write):
    write(tmp_path / name, {"box/a": b"1", "box/sub/b": b"2", "other": b"3"})
    known = form(tmp_path / name)
    folder, found = locate("toys", tmp_path, (Distribution("crate"), known), PAGE)
    assert folder == tmp_path / "box" and found is known
    assert (folder / "a").read_bytes() == b"1" and (folder / "sub" / "b").read_bytes() == b"2"
    assert names(tmp_path) == ["box", name], "nothing else is left"
    assert folder.stat().st_mode & 0o777 == (tmp_path / "box" / "sub").stat().st_mode & 0o777


def test_folder_comes_before_an_archive(tmp_path):
    write_tar(tmp_path / "box.tar.gz", {"box/a": b"1"})
    (tmp_path / "crate").mkdir()
    crate = Distribution("crate")
    assert locate("toys", tmp_path, (form(tmp_path / "box.tar.gz"), crate), PAGE) == (tmp_path / "crate", crate)
    assert not (tmp_path / "box").exists()


def test_cifar10_from_its_archive(cifar_folder, tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar_folder / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(DataError, match="cifar-10-python.tar.gz: its MD5 is .*, the official one c58f30108f71.*kriz"):
        load_dataset("cifar10", tmp_path)
    assert names(tmp_path) == [archive.name]
    monkeypatch.setattr(cifar, "_CIFAR10", replace(cifar._CIFAR10, python=form(archive, "cifar-10-batches-py")))
    assert len(load_dataset("cifar10", tmp_path).train.labels) == 100
    archive.unlink()
    assert len(load_dataset("cifar10", tmp_path).train.labels) == 100


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"box/a": b"1", "../evil": b"2"}, "'../evil' would be extracted to .* outside the destination"),
        ({"box/../../evil": b"2"}, "outside the destination"),
        ({"box/link": Path("/etc")}, "link to an absolute path"),
        ({"box/link": Path("../../evil")}, "outside the destination"),
        ({"crate/a": b"1"}, "No such file"),
    ],
)
def test_hostile_tar(tmp_path, members, message):
    data = tmp_path / "data"
    data.mkdir()
    write_tar(data / "box.tar.gz", members)
    with pytest.raises(DataError, match=f"cannot unpack .*box.tar.gz beside it: .*{message}"):
        locate("toys", data, (form(data / "box.tar.gz"),), PAGE)
    assert names(data) == ["box.tar.gz"] and names(tmp_path) == ["data"]


def test_hostile_zip_stays_inside(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_zip(data / "box.zip", {"box/a": b"1", "../evil": b"2", "/evil": b"3", "box/../../evil": b"4"})
    locate("toys", data, (form(data / "box.zip"),), PAGE)
    assert names(data) == ["box", "box.zip"] and names(tmp_path) == ["data"]


@pytest.mark.parametrize("name", ["box.tar.gz", "box.zip"])
@pytest.mark.parametrize("content", [b"", b"garbage", bytes(600)])
def test_archive_that_is_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"cannot unpack .*{name} beside it: "):
        locate("toys", tmp_path, (form(tmp_path / name),), PAGE)
    assert names(tmp_path) == [name]


def test_archive_cut_short_leaves_nothing(tmp_path):
    archive = tmp_path / "box.tar.gz"
    write_tar(archive, {"box/a": os.urandom(50_000), "box/b": os.urandom(50_000)})
    official = form(archive)
    archive.write_bytes(archive.read_bytes()[:80_000])
    with pytest.raises(DataError, match=f"box.tar.gz: its MD5 is .*, the official one {official.md5}; .*{PAGE}"):
        locate("toys", tmp_path, (official,), PAGE)
    with pytest.raises(DataError, match="cannot unpack"):
        locate("toys", tmp_path, (form(archive),), PAGE)
    assert names(tmp_path) == ["box.tar.gz"]


def test_two_processes_may_unpack_at_once(tmp_path, monkeypatch):
    """The other one, on the same data folder, has finished while this one was unpacking."""
    write_tar(tmp_path / "box.tar.gz", {"box/a": b"1"})
    extract = data_files._extract

    def slow(archive, target):
        extract(archive, target)
        (tmp_path / "box").mkdir()
        (tmp_path / "box" / "a").write_bytes(b"1")

    monkeypatch.setattr(data_files, "_extract", slow)
    folder, _ = locate("toys", tmp_path, (form(tmp_path / "box.tar.gz"),), PAGE)
    assert (folder / "a").read_bytes() == b"1" and names(tmp_path) == ["box", "box.tar.gz"]


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """The rename fails and nobody else made the folder."""
    write_tar(tmp_path / "box.tar.gz", {"box/a": b"1"})

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match="cannot unpack .*box.tar.gz beside it: Permission denied"):
        locate("toys", tmp_path, (form(tmp_path / "box.tar.gz"),), PAGE)
