"""Profile the layers of a model: the time of each at each timestep as its engine runs it, and its operations."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.graph import Flatten, Graph, Repeat, Unsqueeze
from spiketicket.profiling.layers.energy import CMOS_45NM, EnergyTable
from spiketicket.profiling.layers.operations import Activity, LayerOperations, Workload, workload
from spiketicket.profiling.layers.roofline import Roof, measure_roof
from spiketicket.profiling.layers.times import LayerTimes, time_layers
from spiketicket.profiling.measure.timing import Interval
from spiketicket.runtime import Session
from spiketicket.runtime.session import LayerInfo

VIEWS = (Flatten, Repeat, Unsqueeze)  # they have a row only if they take time


@dataclass(frozen=True)
class LayerRow:
    """One operation of the engine: a layer, and those that the same kernel computes. All figures are per image.

    `acs`, `macs`, `dense` and `energy_pj` are by timestep, as in operations.py; a static layer runs at the first.
    `bytes` are by timestep, too: values that are read and written, spikes as bits and other numbers as four bytes, and
    at the first timestep the weights, as the kernel stores them if that is known, otherwise as the file does.
    """

    name: str
    parts: tuple[str, ...]  # all layers that it computes, in order
    kind: str
    shape: tuple[int, ...]  # shape of the weight, or of the output without one
    timed: bool
    kernel: str
    why: str
    density: float | None  # share of nonzero weights
    input_rate: float | None  # share of nonzero inputs of the layers with weights
    activity: Activity | None  # spikes of the neurons in it
    acs: tuple[float, ...]
    macs: tuple[float, ...]
    dense: tuple[int, ...]
    bytes: tuple[float, ...]
    energy_pj: tuple[float, ...]  # an estimate
    seconds: Interval | None  # in a run of T timesteps; None if the engine does not time its layers
    by_timestep: tuple[Interval, ...] | None  # seconds of each further timestep (layer_times.py)
    roofline: float | None  # share of what the machine could do

    @property
    def operations(self) -> float:
        """Return the effective synaptic operations."""
        return sum(self.acs) + sum(self.macs)

    @property
    def intensity(self) -> float:
        """Return the effective synaptic operations per byte."""
        return self.operations / sum(self.bytes)

    def to_dict(self) -> dict[str, Any]:
        steps = self.by_timestep
        return {
            "name": self.name,
            "parts": list(self.parts),
            "kind": self.kind,
            "shape": list(self.shape),
            "timed": self.timed,
            "kernel": self.kernel,
            "why": self.why,
            "density": self.density,
            "input_rate": self.input_rate,
            "firing_rate": None if self.activity is None else list(self.activity.rates),
            "silent": None if self.activity is None else list(self.activity.silent),
            "Effective_MACs": list(self.macs),
            "Effective_ACs": list(self.acs),
            "Dense": list(self.dense),
            "bytes": list(self.bytes),
            "operations_per_byte": self.intensity,
            "energy_estimate_pj": list(self.energy_pj),
            "seconds": None if self.seconds is None else self.seconds.to_dict(),
            "seconds_by_timestep": None if steps is None else [step.to_dict() for step in steps],
            "roofline_share": self.roofline,
        }


@dataclass(frozen=True)
class LayerProfile:
    """The profile of all layers. `times` and `roof` are None if the engine does not time its layers."""

    engine: str
    threads: int
    images_at_once: int
    rows: tuple[LayerRow, ...]
    workload: Workload
    energy: EnergyTable
    times: LayerTimes | None
    roof: Roof | None

    @property
    def overhead(self) -> Interval | None:
        """Return the share by which the clocks between the layers make a run longer."""
        return None if self.times is None else self.times.overhead

    def to_dict(self) -> dict[str, Any]:
        times = self.times
        return {
            "engine": self.engine,
            "threads": self.threads,
            "images_at_once": self.images_at_once,
            "rounds": None if times is None else times.rounds,
            "overhead": None if times is None else times.overhead.to_dict(),
            "covered": None if times is None else times.covered.to_dict(),
            "roof": None if self.roof is None else self.roof.to_dict(),
            "energy_table": self.energy.to_dict(),
            "neurobench": self.workload.to_dict(),
            "layers": [row.to_dict() for row in self.rows],
        }


def profile_layers(
    session: Session,
    x: NDArray[np.float32],
    timesteps: int | None = None,
    *,
    duration: float = 2.0,
    energy: EnergyTable = CMOS_45NM,
) -> LayerProfile:
    """Count what every layer does on the images `x`, and time it for `duration` seconds, one image at a time.

    `x` as `Session.run` takes it. Of an engine that does not tell its layers' times, everything else. Raises
    InputError as `Session.run`.
    """
    work = workload(session, x, timesteps)
    times = roof = None
    if session.times_layers:
        times = time_layers(session, x, work.timesteps, duration)
    groups = list(_groups(session, None if times is None else set(times.layers)))
    traffic = [_bytes(session.graph, infos, work.timesteps) for infos in groups]
    if times is not None and session.engine_name == "native":  # the roof is measured with the native engine's kernels
        roof = measure_roof(session.threads, int(sum(map(sum, traffic))))
    rows = tuple(_row(infos, nbytes, work, energy, times, roof) for infos, nbytes in zip(groups, traffic, strict=True))
    return LayerProfile(session.engine_name, session.threads, session.batch or 1, rows, work, energy, times, roof)


def _groups(session: Session, timed: set[str] | None) -> Iterator[list[LayerInfo]]:
    """Yield the layers that one operation of the engine computes, each group behind its first layer."""
    infos = session.layers()
    nodes = {node.name: node for node in session.graph.nodes}
    for info in infos:
        free = isinstance(nodes[info.name], VIEWS) if timed is None else info.name not in timed
        if info.part_of is None and not free:
            yield [info, *(other for other in infos if other.part_of == info.name)]


def _row(
    infos: list[LayerInfo],
    nbytes: tuple[float, ...],
    work: Workload,
    energy: EnergyTable,
    times: LayerTimes | None,
    roof: Roof | None,
) -> LayerRow:
    first, names = infos[0], {info.name for info in infos}
    layers = [layer for layer in work.layers if layer.name in names]
    weights = [info for info in infos if info.density is not None]
    acs, macs = _sums([layer.acs for layer in layers], nbytes), _sums([layer.macs for layer in layers], nbytes)
    seconds = None if times is None else times.whole(first.name)
    share = None
    if roof is not None and seconds is not None and layers:
        share = roof.share(sum(acs) + sum(macs), sum(nbytes), seconds.value)
    return LayerRow(
        name=first.name,
        parts=tuple(info.name for info in infos),
        kind=" + ".join(info.kind for info in infos),
        shape=first.shape,
        timed=first.timed,
        kernel=first.kernel,
        why=first.why,
        density=_density(weights),
        input_rate=mean_input_rate(layers),
        activity=next((activity for activity in work.activity if activity.name in names), None),
        acs=acs,
        macs=macs,
        dense=tuple(map(int, _sums([layer.dense for layer in layers], nbytes))),
        bytes=nbytes,
        energy_pj=tuple(map(energy.estimate, macs, acs, nbytes)),
        seconds=seconds,
        by_timestep=None if times is None else times.by_timestep(first.name),
        roofline=share,
    )


def _sums(steps: list[Any], like: tuple[float, ...]) -> tuple[float, ...]:
    """Return the sums over layers, by timestep."""
    return tuple(map(sum, zip(*steps, strict=True))) if steps else (0.0,) * len(like)


def _density(weights: list[LayerInfo]) -> float | None:
    nonzeros = sum(prod(info.shape) * (info.density or 0.0) for info in weights)
    return nonzeros / sum(prod(info.shape) for info in weights) if weights else None


def mean_input_rate(layers: list[LayerOperations]) -> float | None:
    """Return the share of nonzero inputs; for a kernel that reads several values, the mean over them."""
    inputs = sum(layer.inputs for layer in layers)
    return sum(layer.input_rate * layer.inputs for layer in layers) / inputs if inputs else None


def _bytes(graph: Graph, infos: list[LayerInfo], timesteps: int) -> tuple[float, ...]:
    """Return the bytes of an operation by timestep: its weights once, the values that it reads from other operations,
    and those that it gives to them.
    """
    names = {info.name for info in infos}
    nodes = [node for node in graph.nodes if node.name in names]
    made = {node.output for node in nodes}
    views = {node.output: node.inputs[0] for node in graph.nodes if isinstance(node, VIEWS)}
    read = {_source(name, views) for node in nodes for name in node.inputs if name not in made}
    steps = np.zeros(timesteps)
    for value in (graph.values[name] for name in read | {nodes[-1].output}):
        steps[: timesteps if value.timed else 1] += prod(value.shape) * (1 / 8 if value.spikes else 4)
    stored = infos[0].kernel_nbytes
    steps[0] += sum(info.nbytes for info in infos) if stored is None else stored
    return tuple(steps.tolist())


def _source(name: str, views: dict[str, str]) -> str:
    """Return the value that holds the numbers of `name`, which may be the same value in another shape."""
    while name in views:
        name = views[name]
    return name
