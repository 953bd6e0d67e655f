"""The commands of the README and of the pages that go on from it run as printed, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spiketicket.errors import NotBuiltError
from spiketicket.runtime import onnxruntime_library

ROOT = Path(__file__).resolve().parents[2]
PAGES = "".join((ROOT / page).read_text() for page in ("README.md", "docs/commands.md", "docs/python.md"))
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL)
RUN = [(kind, text) for kind, text in BLOCKS if "make demo" not in text]


def operators_built():
    try:
        return bool(onnxruntime_library())
    except NotBuiltError:
        return False


@pytest.mark.slow
def test_commands_run_as_printed(tmp_path):
    assert len(RUN) >= 10
    (tmp_path / "tests").symlink_to(ROOT / "tests")  # the README's first command runs a file of the repository
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for kind, text in RUN:
        if "onnxruntime_library" in text and not operators_built():  # the README says when they are
            continue
        command = ["sh", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip()
    assert {"digits.onnx", "before.json", "profile.html", "after.json", "tickets.html", "runs", "tickets.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)\b(?=[`\n])", text):
        assert f"\n{target}:" in makefile, target
