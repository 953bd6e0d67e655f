import os
import resource
import subprocess
import sys

import pytest

from spiketicket.errors import SpikeTicketError
from spiketicket.files import write_atomic


def test_replaces_the_old_content(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_full_disk_keeps_the_old_file(tmp_path):
    """A limit on the size of files stands in for the full disk: the write fails half-way in the same place."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom spiketicket.files import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        f"write_atomic(Path({str(path)!r}), bytes(1_000_000))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"SpikeTicketError: cannot write {path}: File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpikeTicketError, match="cannot write .*file/model: .*file is not a folder"):
        write_atomic(tmp_path / "file" / "model", b"data")


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_special_files_are_left_alone(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(SpikeTicketError, match="it is not a plain file"):
            write_atomic(path, b"data")
    assert fifo.is_fifo()


@pytest.mark.parametrize("name", ["x" * 300, "y" * 300 + "/file"])
def test_impossible_names(tmp_path, name):
    with pytest.raises(SpikeTicketError, match="cannot write .*File name too long"):
        write_atomic(tmp_path / name, b"data")


def test_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SpikeTicketError, match="cannot write"):
        write_atomic(tmp_path / "a", b"data")
