"""Load the network and the samples that the options of `snn-export` name, and export."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket import __version__
from spiketicket.cli.export.options import File, Inputs, Source, Verification
from spiketicket.data import Normalisation, load_dataset
from spiketicket.errors import DataError, InputError
from spiketicket.export.check.agreement import Tolerance
from spiketicket.export.check.check import Check, Samples, check_samples
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.export.pack import SAMPLES, Export, pack, versions
from spiketicket.model.metadata import Metadata, class_names
from spiketicket.runtime import Session
from spiketicket.runtime.engine import check_timesteps
from spiketicket.runtime.evaluate import evaluate
from spiketicket.runtime.inputs import dataset_inputs, load_array

Floats = NDArray[np.float32]


def run(source: Source, inputs: Inputs, file: File, verification: Verification) -> Export:
    """Export `source` to the file's path, or beside `source`. Raises what reading, exporting and verifying raise."""
    if source.imports:
        from spiketicket.train.networks.models import import_plugins

        import_plugins(source.imports)
    form = file.format_settings(source.dt)
    asked = ExportFormat(**form)
    timesteps = file.steps[0]  # None: the ticket's own
    if timesteps is not None:
        check_timesteps(timesteps)
    ticket = _ticket_file(source.ticket) if source.ticket else None
    path = file.output or (ticket or source.beside).with_suffix(FORMATS[asked.format].suffix)
    if path.resolve().suffix == ".py":
        raise InputError(f"the model would be written as a Python source, {path}: choose another --output")
    for read in (ticket, source.nir, source.weights, source.masks, inputs.samples):
        if read is not None and read.resolve() == path.resolve():
            what = "ticket" if read is ticket else "input"
            raise InputError(f"the model would overwrite the {what} {read}: choose another --output")
    if ticket is not None:
        result = _from_ticket(ticket, inputs, verification, timesteps, path, form)
    elif timesteps is None:
        raise InputError("how many timesteps? give --timesteps T (fixed in the file), or --timesteps dynamic:T")
    elif source.nir is not None:
        result = _from_nir(source, inputs, verification, timesteps, path, asked)
    else:
        result = _from_module(source, inputs, verification, timesteps, path, form)
    runs_here = asked.format == "onnx" and not asked.dense and asked.batch is None
    return _with_accuracy(result, inputs) if verification.check and inputs.dataset and runs_here else result


def _with_accuracy(result: Export, inputs: Inputs) -> Export:
    """Return `result` with the accuracy of the file, run by the native engine, on the whole data set that was asked
    for.
    """
    dataset = load_dataset(str(inputs.dataset), inputs.data)
    with Session(result.path) as session:
        found = evaluate(session, dataset_inputs(session, dataset, "test"), dataset.test.labels)
    return replace(result, accuracy=found.accuracy)


def _ticket_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "ticket.pt").exists():  # the path is a run folder
        raise InputError(f"{path} has no ticket yet: finish the search; its rounds so far are in rounds/")
    return path / "ticket.pt"


def _samples(
    inputs: Inputs, dataset: str | None = None, normalisation: Normalisation | None = None
) -> tuple[Floats, NDArray[np.int64] | None, dict[str, str]]:
    """Return samples, their labels, and metadata of their data set, which is `dataset` unless `inputs` names one."""
    name = inputs.dataset or dataset
    if inputs.samples is not None:
        if inputs.dataset is not None:
            raise InputError("give --dataset or --samples, not both")
        return load_array(inputs.samples), None, {}
    if name is None:
        raise InputError("nothing to run the network on: give --dataset NAME, or --samples FILE.npy")
    if inputs.timed:
        raise InputError("--timed needs --samples: data sets hold images, the same at every timestep")
    try:
        loaded = load_dataset(name, inputs.data)
    except DataError as error:
        raise DataError(f"cannot verify: {error}; or give --samples FILE.npy") from error
    norm = normalisation or loaded.normalisation
    metadata = Metadata(dataset=loaded.name, classes=tuple(loaded.classes), normalisation=norm).to_strings()
    return norm(loaded.test.images[:SAMPLES]), loaded.test.labels[:SAMPLES], metadata


def _from_ticket(
    file: Path,
    inputs: Inputs,
    verification: Verification,
    timesteps: int | None,
    path: Path,
    form: Mapping[str, Any],
) -> Export:
    from spiketicket.export.ticket import export_ticket
    from spiketicket.train.search.ticket import load_ticket

    ticket = load_ticket(file)
    samples = labels = None
    if verification.check:
        samples, labels, _ = _samples(inputs, str(ticket.search["dataset"]), ticket.normalisation)
    tolerance = {"atol": verification.atol, "rtol": verification.rtol}
    return export_ticket(ticket, path, samples, timesteps=timesteps, labels=labels, **tolerance, **form)


def _from_module(
    source: Source, inputs: Inputs, verification: Verification, timesteps: int, path: Path, form: Mapping[str, Any]
) -> Export:
    from spiketicket.export.module import export
    from spiketicket.export.torch import sources

    x, labels, metadata = _samples(inputs)
    if source.arch is not None:
        classes = len(class_names(metadata) or ()) if metadata else None
        network = sources.build_arch(source.arch, x.shape[1:], classes, timesteps)
        metadata = {"arch": source.arch, **metadata}
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
        metadata=metadata,
        **asdict(verification),
        **form,
    )


def _from_nir(
    source: Source, inputs: Inputs, verification: Verification, timesteps: int, path: Path, form: ExportFormat
) -> Export:
    from spiketicket.export.nir.reader import read_nir

    assert source.nir is not None
    graph = read_nir(source.nir, timesteps, form.dt, source.dialect)
    made_by = {"exporter": __version__, "versions": versions("nir", "h5py")}
    graph = replace(graph, metadata={**graph.metadata, **made_by})
    if not verification.check:
        return pack(graph, path, form)
    x, labels, metadata = _samples(inputs)
    graph = replace(graph, metadata={**graph.metadata, **metadata})
    if x.ndim == 1 + len(graph.input_shape):  # [N, ...]: the same at every timestep
        x = np.repeat(x[None], timesteps, axis=0)
    samples = Samples(check_samples(x, graph), timesteps, True, labels)
    return pack(graph, path, form, Check(samples, Tolerance(verification.atol, verification.rtol)))
