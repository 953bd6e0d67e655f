"""The sections of a report on layers."""

from spiketicket.profiling.layers.profile import LayerProfile, LayerRow
from spiketicket.profiling.measure.timing import Interval
from spiketicket.profiling.report.document import Axis, Bars, Cell, Column, Lines, Point, Section, Series, Table

MS, US, KB, MILLION, UJ = 1e3, 1e6, 1e-3, 1e-6, 1e-6  # factors for seconds, bytes, operations and picojoules


def sections(profile: LayerProfile) -> tuple[Section, ...]:
    """Return the sections: layers; if they were timed, layers by timestep; firing rates, if anything fires;
    NeuroBench's metrics.
    """
    parts = [_layers(profile)]
    if any(row.by_timestep for row in profile.rows):
        parts.append(_time_by_timestep(profile))
    if profile.workload.activity:
        parts.append(_firing(profile))
    return (*parts, _operations(profile))


def _layers(profile: LayerProfile) -> Section:
    columns = (
        Column("layer"),
        Column("kind"),
        Column("weight or output"),
        Column("kernel"),
        Column("time", "ms per image", ".3f"),
        Column("low", "ms", ".3f"),
        Column("high", "ms", ".3f"),
        Column("share", form=".1%", means="of the time of all layers"),
        Column("density", form=".1%", means="nonzero weights"),
        Column("inputs", form=".1%", means="that are not zero"),
        Column("firing rate", form=".1%", means="spikes per neuron and timestep"),
        Column("silent", form=".1%", means="neurons that never fire"),
        Column("Effective_ACs", "million", ".3f"),
        Column("Effective_MACs", "million", ".3f"),
        Column("Dense", "million", ".1f"),
        Column("moved", "kB", ".0f", "weights, and values in and out"),
        Column("operations per byte", form=".2f"),
        Column("roofline", form=".0%", means="share of what the machine could do"),
        Column("energy estimate", "µJ", ".3f"),
        Column("why this kernel"),
    )
    rows = tuple(_cells(row, _total(profile)) for row in profile.rows)
    pictures = (_bars(profile),) if profile.times else ()
    return Section("layers", "Layers", _slowest(profile), Table(columns, rows), pictures, _notes(profile))


def _cells(row: LayerRow, total: float | None) -> tuple[Cell, ...]:
    seconds, activity = row.seconds, row.activity
    weighted = row.density is not None
    return (
        row.name,
        row.kind,
        "x".join(map(str, row.shape)),
        row.kernel,
        *((None,) * 3 if seconds is None else (seconds.value * MS, seconds.low * MS, seconds.high * MS)),
        None if seconds is None or not total else seconds.value / total,
        row.density,
        row.input_rate,
        None if activity is None else activity.rate,
        None if activity is None else activity.silent[-1],
        sum(row.acs) * MILLION if weighted else None,
        sum(row.macs) * MILLION if weighted else None,
        sum(row.dense) * MILLION if weighted else None,
        sum(row.bytes) * KB,
        row.intensity if weighted else None,
        row.roofline,
        sum(row.energy_pj) * UJ if weighted else None,
        row.why,
    )


def _total(profile: LayerProfile) -> float | None:
    """Return the seconds of all layers."""
    return sum(row.seconds.value for row in profile.rows if row.seconds) if profile.times else None


def _slowest(profile: LayerProfile) -> str:
    total = _total(profile)
    timed = [(row.seconds.value, row) for row in profile.rows if row.seconds]
    if not total or not timed:
        return f"Engine {profile.engine} does not tell how long its layers take; what they compute is counted."
    seconds, row = max(timed, key=lambda pair: pair[0])
    return (
        f"{row.name} takes {seconds / total:.0%} of the time of all layers, {seconds * MS:.3f} ms of {total * MS:.3f} "
        f"ms per image, with kernel {row.kernel}."
    )


def _bars(profile: LayerProfile) -> Bars:
    timed = [(row.name, row.seconds.value * MS) for row in profile.rows if row.seconds]
    return Bars(
        Axis("time per image", "ms"),
        tuple(name for name, _ in timed),
        {"time": tuple(ms for _, ms in timed)},
        "Time per image of each layer. " + _slowest(profile),
    )


def _notes(profile: LayerProfile) -> tuple[str, ...]:
    notes = [f"Energy is an estimate, not a measurement: {profile.energy.name} ({profile.energy.source})."]
    times, roof = profile.times, profile.roof
    if times is not None:
        notes += [
            f"The clocks of {len(times.layers)} layers cost {_percent(times.overhead)} of a run: pairs of runs with "
            f"and without them, {times.rounds} rounds; threads {profile.threads}, images per run "
            f"{profile.images_at_once}.",
            f"The layers take {_percent(times.covered)} of a run; the rest is checks, and values in and out.",
            "Times are medians with 95% intervals.",
        ]
    if roof is not None:
        notes.append(
            f"Roofline: {roof.additions * 1e-9:.1f} additions per nanosecond (the engine's kernels on a small dense "
            f"layer) and {roof.bytes * 1e-9:.1f} GB/s (copies of {roof.working_set * KB:.0f} kB), measured right "
            "after. A share counts effective synaptic operations; what a kernel does besides lowers it. Above 100% "
            "is a layer that moves less than it holds (event kernels read the weights of inputs that fire alone), or "
            "whose bytes lie in a faster cache than all of the model's."
        )
    return tuple(notes)


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _steps(profile: LayerProfile) -> range:
    return range(1, profile.workload.timesteps + 1)


def _time_by_timestep(profile: LayerProfile) -> Section:
    columns = (Column("layer"), *(Column(f"t = {t}", "µs", ".1f") for t in _steps(profile)))
    timed = [(row.name, row.by_timestep) for row in profile.rows if row.by_timestep]
    rows: tuple[tuple[Cell, ...], ...] = tuple((name, *(step.value * US for step in steps)) for name, steps in timed)
    sums = [sum(steps[t - 1].value for _, steps in timed) for t in _steps(profile)]
    says = f"The first timestep takes {sums[0] * MS:.3f} ms"
    if len(sums) > 1:
        says += f", each further one {sum(sums[1:]) / len(sums[1:]) * MS:.3f} ms on average"
    note = (
        "The engine computes all timesteps of a layer before the next layer. The time of timestep t is that of the "
        "layer in a run of t timesteps less that in a run of t - 1: near zero in a static layer, below zero by noise."
    )
    return Section(
        "layer-times-by-timestep", "Time of each layer by timestep", says + ".", Table(columns, rows), notes=(note,)
    )


def _firing(profile: LayerProfile) -> Section:
    activity = profile.workload.activity
    by_part = {part: row.name for row in profile.rows for part in row.parts}
    columns = (
        Column("neurons of"),
        Column("layer", means="whose kernel computes them"),
        Column("neurons", form=",d"),
        *(Column(f"t = {t}", form=".1%") for t in _steps(profile)),
        *(Column(f"silent to {t}", form=".1%", means="not fired so far") for t in _steps(profile)),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (layer.name, by_part.get(layer.name), layer.neurons, *layer.rates, *layer.silent) for layer in activity
    )
    points = {layer.name: tuple(Point(t, rate) for t, rate in enumerate(layer.rates, 1)) for layer in activity}
    neurons = sum(layer.neurons for layer in activity)
    silent = sum(layer.silent[-1] * layer.neurons for layer in activity) / neurons
    sparsity = profile.workload.activation_sparsity or 0.0
    says = f"A neuron fires at {1 - sparsity:.1%} of the timesteps on average; {silent:.1%} of the neurons never fire."
    picture = Lines(
        Axis("timestep"),
        Axis("firing rate", form=".0%"),
        tuple(Series(name, series) for name, series in points.items()),
        "Firing rate of each layer by timestep. " + says,
    )
    note = f"Means over {profile.workload.images} images."
    return Section("firing-rates", "Firing rates and silent neurons", says, Table(columns, rows), (picture,), (note,))


def _operations(profile: LayerProfile) -> Section:
    work = profile.workload
    totals = work.synaptic_operations
    effective = totals["Effective_MACs"] + totals["Effective_ACs"]
    energy = sum(sum(row.energy_pj) for row in profile.rows)
    rows: list[tuple[Cell, ...]] = [
        ("Footprint, bytes, zero weights included", f"{work.footprint:,}", *(None for _ in _steps(profile))),
        ("the same, packed", f"{work.packed_bytes:,}", *(None for _ in _steps(profile))),
        ("ConnectionSparsity", f"{work.connection_sparsity:.4f}", *(None for _ in _steps(profile))),
        (
            "ActivationSparsity",
            None if work.activation_sparsity is None else f"{work.activation_sparsity:.4f}",
            *(_sparsity(profile, t) for t in _steps(profile)),
        ),
        *(
            (f"SynapticOperations {name}", f"{totals[name]:,.0f}", *(f"{step:,.0f}" for step in steps))
            for name, steps in work.by_timestep.items()
        ),
        (
            "energy estimate, µJ",
            f"{energy * UJ:.3f}",
            *(f"{sum(row.energy_pj[t - 1] for row in profile.rows) * UJ:.3f}" for t in _steps(profile)),
        ),
    ]
    says = (
        f"Of {totals['Dense'] * MILLION:,.1f} million synaptic operations of a dense network, per image, "
        f"{effective * MILLION:,.2f} million are effective ({effective / max(totals['Dense'], 1):.2%}): an estimated "
        f"{energy * UJ:.2f} µJ."
    )
    notes = (
        "Names and definitions are NeuroBench's; figures per image, means over "
        f"{work.images} images of {work.timesteps} timesteps. A static layer counts once, at the first timestep; taps "
        "in the padding, biases, pooling and neurons do not count.",
        f"Energy is an estimate: {profile.energy.mac_pj} pJ per MAC, {profile.energy.ac_pj} pJ per AC "
        f"({profile.energy.name}).",
    )
    table = Table((Column("metric"), Column("whole"), *(Column(f"t = {t}") for t in _steps(profile))), tuple(rows))
    return Section("synaptic-operations", "NeuroBench metrics", says, table, notes=notes)


def _sparsity(profile: LayerProfile, t: int) -> str | None:
    """Share of neurons that do not fire at timestep t."""
    activity = profile.workload.activity
    neurons = sum(layer.neurons for layer in activity)
    return f"{1 - sum(layer.rates[t - 1] * layer.neurons for layer in activity) / neurons:.4f}" if neurons else None
