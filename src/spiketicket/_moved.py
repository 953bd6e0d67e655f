"""The old names of public modules that were moved. Importing one warns, and returns the module of the new name."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

MOVED = {
    "spiketicket.train.config": "spiketicket.train.networks.config",
    "spiketicket.train.layers": "spiketicket.train.networks.layers",
    "spiketicket.train.models": "spiketicket.train.networks.models",
    "spiketicket.export.nir_reader": "spiketicket.export.nir.reader",
    "spiketicket.export.nir_writer": "spiketicket.export.nir.writer",
    "spiketicket.export.onnx_writer": "spiketicket.model.writer",
    "spiketicket.export.tensorrt": "spiketicket.export.formats.tensorrt",
    "spiketicket.runtime.onnx_reader": "spiketicket.model.reader",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved: import {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self.own = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Give the module its own spec back, and do no more: it has been executed under its new name."""
        module.__spec__ = self.own


def install() -> None:
    """Make the old names importable; modules that exist are found as ever."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
