"""The benchmarks themselves are not run by the tests; that they load is."""

import importlib
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "deepsparse_worker"])
def test_it_loads(name):
    """(deepsparse_worker runs in another Python, which has DeepSparse.)"""
    pytest.importorskip("matplotlib")
    assert importlib.import_module(name).__doc__
