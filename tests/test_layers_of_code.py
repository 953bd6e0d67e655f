"""The layout of the code: imports point down, without circles, and folders stay small (docs/architecture.md)."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "spiketicket"
# From the bottom to the top: a part imports parts of its own layer and of those before it.
LAYERS = (
    ("_moved", "errors", "files", "text"),
    ("csr", "graph"),
    ("model", "data"),
    ("runtime",),
    ("train",),
    ("export",),
    ("profiling",),
    ("cli", "demo"),
)
MOST_MODULES = 13


def modules():
    """Module names (without `spiketicket.`) and their files, through the links to the four folders."""
    found = {}
    for folder in (PACKAGE, *(PACKAGE / name for name in ("train", "export", "runtime", "profiling"))):
        for path in folder.resolve().rglob("*.py") if folder != PACKAGE else PACKAGE.rglob("*.py"):
            base = ROOT if ROOT / "src" not in path.parents else PACKAGE
            parts = path.relative_to(base).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                found[name] = path
    return found


MODULES = modules()


def imports(path):
    """The modules of ours that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spiketicket"):
            module = node.module.removeprefix("spiketicket").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else module
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("spiketicket.") for a in node.names if a.name.startswith("spiketicket."))


def layer(module):
    part = module.partition(".")[0]
    return next(place for place, parts in enumerate(LAYERS) if part in parts)


GRAPH = {name: {other for other in imports(path) if other and other != name} for name, path in MODULES.items()}


def test_all_modules_are_seen():
    assert len(MODULES) > 180 and sum(map(len, GRAPH.values())) > 500


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    above = sorted(other for other in GRAPH[name] if layer(other) > layer(name))
    assert not above, f"{name} imports {', '.join(above)}, which is above it"


def test_top_level_folders_are_not_imported_as_packages():
    """A bare `import train` would be a second copy of spiketicket.train (tests run with the repository on the path)."""
    assert {"train", "export", "runtime", "profiling"}.isdisjoint(sys.modules)


def test_there_are_no_circles():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names them


def test_only_commands_know_the_terminal():
    """Typer and rich are for the commands, and for the benchmarks, which are commands too."""
    knowing = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            roots = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            roots += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(root.partition(".")[0] in ("typer", "rich") for root in roots):
                knowing.add(name)
    assert {name for name in knowing if not name.startswith(("cli.", "profiling.report.", "demo"))} == set()


def test_folders_are_small():
    sizes = {}
    for path in (*MODULES.values(), *(ROOT / "benchmarks").rglob("*.py")):
        sizes[path.parent] = sizes.get(path.parent, 0) + (path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in sizes.items() if n > MOST_MODULES} == {}


def test_old_names_still_import():
    """In a process of its own, where nothing is imported yet; and the new module stays itself."""
    code = (
        "import warnings, importlib; warnings.simplefilter('error', DeprecationWarning)\n"
        "from spiketicket._moved import MOVED\n"
        "for old, new in MOVED.items():\n"
        "    try:\n        importlib.import_module(old)\n        raise SystemExit(f'{old}: no warning')\n"
        "    except DeprecationWarning as warning: assert new in str(warning)\n"
        "warnings.simplefilter('ignore')\n"
        "for old, new in MOVED.items():\n"
        "    one, other = importlib.import_module(old), importlib.import_module(new)\n"
        "    assert one is other and other.__spec__.name == new == other.__name__\n"
        "import spiketicket.runtime.engine\n"
        "print('all')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "all", done.stderr
