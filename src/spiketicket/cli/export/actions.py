"""What `snn-export` does: bring a network and samples together, and export."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket import __version__
from spiketicket.data import Normalisation, load_dataset
from spiketicket.errors import DataError, InputError
from spiketicket.export.check.agreement import Tolerance
from spiketicket.export.check.check import Check, Samples, check_samples
from spiketicket.export.formats.registry import FORMATS, ExportFormat
from spiketicket.export.nir.dialects import DIALECTS
from spiketicket.export.pack import SAMPLES, Export, pack, versions
from spiketicket.model.metadata import Metadata, class_names
from spiketicket.runtime import Session
from spiketicket.runtime.engine import check_timesteps
from spiketicket.runtime.evaluate import evaluate
from spiketicket.runtime.inputs import dataset_inputs, load_array

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What is exported: one of `ticket`, `module`, `arch` and `nir`, and what belongs to it."""

    ticket: Path | None = None
    module: str | None = None
    arch: str | None = None
    nir: Path | None = None
    weights: Path | None = None
    masks: Path | None = None
    dialect: str = "nir"

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("ticket", "module", "arch", "nir") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"give one of --ticket, --module, --arch and --nir, got {' and '.join(given) or 'none'}")
        if (self.weights or self.masks) and (self.ticket or self.nir):
            raise InputError(f"--weights and --masks belong to --module and --arch, not to {given[0]}")
        if self.dialect not in DIALECTS:
            raise InputError(f"--dialect: expected one of {', '.join(DIALECTS)}, got {self.dialect!r}")
        if self.arch and not self.weights:
            raise InputError("--arch needs --weights: an untrained network is of no use")

    @property
    def beside(self) -> Path:
        """What the file is named after, unless told otherwise."""
        own = self.ticket or self.nir or self.weights
        return own if own is not None else Path(f"{str(self.module).partition(':')[0].rpartition('.')[2]}.pt")


@dataclass(frozen=True)
class Inputs:
    """Where samples come from, and how they are to agree."""

    dataset: str | None = None
    folder: Path | None = None
    array: Path | None = None
    timed: bool = False
    check: bool = True
    atol: float = 0.0
    rtol: float = 1e-4

    def samples(
        self, dataset: str | None = None, normalisation: Normalisation | None = None
    ) -> tuple[Floats, NDArray[np.int64] | None, dict[str, str]]:
        """Samples, their labels, and what the file is to note of their data set. `dataset`: where none is asked for."""
        name = self.dataset or dataset
        if self.array is not None:
            if self.dataset is not None:
                raise InputError("give --dataset or --samples, not both")
            return load_array(self.array), None, {}
        if name is None:
            raise InputError("nothing to run the network on: give --dataset NAME, or --samples FILE.npy")
        if self.timed:
            raise InputError("--timed needs --samples: data sets hold images, the same at every timestep")
        try:
            loaded = load_dataset(name, self.folder)
        except DataError as error:
            raise DataError(f"cannot verify: {error}; or give --samples FILE.npy") from error
        norm = normalisation or loaded.normalisation
        noted = Metadata(dataset=loaded.name, classes=tuple(loaded.classes), normalisation=norm).to_strings()
        return norm(loaded.test.images[:SAMPLES]), loaded.test.labels[:SAMPLES], noted

    @property
    def agreement(self) -> dict[str, Any]:
        return {"check": self.check, "atol": self.atol, "rtol": self.rtol}


def run(source: Source, inputs: Inputs, timesteps: int | None, output: Path | None, form: Mapping[str, Any]) -> Export:
    """Export `source` to `output`, or beside it. `timesteps`: T; None: the ticket's own."""
    asked = ExportFormat(**form)
    if timesteps is not None:
        check_timesteps(timesteps)
    ticket = _ticket_file(source.ticket) if source.ticket else None
    path = output or (ticket or source.beside).with_suffix(FORMATS[asked.format].suffix)
    if path.resolve().suffix == ".py":
        raise InputError(f"the model would be written as a Python source, {path}: choose another --output")
    for read in (ticket, source.nir, source.weights, source.masks, inputs.array):
        if read is not None and read.resolve() == path.resolve():
            what = "ticket" if read is ticket else "input"
            raise InputError(f"the model would overwrite the {what} {read}: choose another --output")
    if ticket is not None:
        result = _from_ticket(ticket, inputs, timesteps, path, form)
    elif timesteps is None:
        raise InputError("how many timesteps? give --timesteps T (fixed in the file), or --timesteps dynamic:T")
    elif source.nir is not None:
        result = _from_nir(source, inputs, timesteps, path, asked)
    else:
        result = _from_module(source, inputs, timesteps, path, form)
    runs_here = asked.format == "onnx" and not asked.dense and asked.batch is None
    return _with_accuracy(result, inputs) if inputs.check and inputs.dataset and runs_here else result


def _with_accuracy(result: Export, inputs: Inputs) -> Export:
    """With the accuracy of the file, in the native engine, on the whole of the data set that was asked for."""
    dataset = load_dataset(str(inputs.dataset), inputs.folder)
    with Session(result.path) as session:
        found = evaluate(session, dataset_inputs(session, dataset, "test"), dataset.test.labels)
    return replace(result, accuracy=found.accuracy)


def _ticket_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "ticket.pt").exists():  # of a run
        raise InputError(f"{path} has no ticket yet: finish the search; its rounds so far are in rounds/")
    return path / "ticket.pt"


def _from_ticket(file: Path, inputs: Inputs, timesteps: int | None, path: Path, form: Mapping[str, Any]) -> Export:
    from spiketicket.export.ticket import export_ticket
    from spiketicket.train.search.ticket import load_ticket

    ticket = load_ticket(file)
    samples = labels = None
    if inputs.check:
        samples, labels, _ = inputs.samples(str(ticket.search["dataset"]), ticket.normalisation)
    tolerance = {"atol": inputs.atol, "rtol": inputs.rtol}
    return export_ticket(ticket, path, samples, timesteps=timesteps, labels=labels, **tolerance, **form)


def _from_module(source: Source, inputs: Inputs, timesteps: int, path: Path, form: Mapping[str, Any]) -> Export:
    from spiketicket.export.module import export
    from spiketicket.export.torch import sources

    x, labels, noted = inputs.samples()
    if source.arch is not None:
        classes = len(class_names(noted) or ()) if noted else None
        network = sources.build_arch(source.arch, x.shape[1:], classes, timesteps)
        noted = {"arch": source.arch, **noted}
    else:
        network = sources.load_module(str(source.module))
    if source.weights is not None:
        state = sources.read_state(source.weights)
        sources.load_state(network, state, source.weights, by_order=source.arch is not None)
    masks = sources.read_masks(source.masks, network) if source.masks is not None else None
    return export(
        network,
        x,
        timesteps,
        path,
        masks,
        timed=inputs.timed,
        labels=labels,
        metadata=noted,
        **inputs.agreement,
        **form,
    )


def _from_nir(source: Source, inputs: Inputs, timesteps: int, path: Path, form: ExportFormat) -> Export:
    from spiketicket.export.nir.reader import read_nir

    assert source.nir is not None
    graph = read_nir(source.nir, timesteps, form.dt, source.dialect)
    made_by = {"exporter": __version__, "versions": versions("nir", "h5py")}
    graph = replace(graph, metadata={**graph.metadata, **made_by})
    if not inputs.check:
        return pack(graph, path, form)
    x, labels, noted = inputs.samples()
    graph = replace(graph, metadata={**graph.metadata, **noted})
    if x.ndim == 1 + len(graph.input_shape):  # [N, ...]: the same at every timestep
        x = np.repeat(x[None], timesteps, axis=0)
    samples = Samples(check_samples(x, graph), timesteps, True, labels)
    return pack(graph, path, form, Check(samples, Tolerance(inputs.atol, inputs.rtol)))
