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
