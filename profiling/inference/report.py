"""An inference profile as a report."""

from dataclasses import asdict, replace

from spiketicket.profiling.inference.profile import InferenceProfile, ModelProfile
from spiketicket.profiling.inference.sections import (
    accuracy_section,
    first_logits_section,
    latency_section,
    throughput_section,
)
from spiketicket.profiling.layers.sections import sections as layer_sections
from spiketicket.profiling.measure.counters import CountersUnavailable
from spiketicket.profiling.report.document import Column, Report, Section, Table
from spiketicket.text import human_bytes


def inference_report(profile: InferenceProfile) -> Report:
    """Sections of all models together, then layers, memory, counters and GPU of each."""
    models = profile.models
    found = [
        latency_section(models, profile.settings.percentiles),
        first_logits_section(models),
        accuracy_section(models),
        throughput_section(models),
    ]
    sections = [section for section in found if section is not None]
    for number, model in enumerate(models, 1):
        own = [*layer_sections(model.layers), _counters_section(model)]
        if len(models) > 1:
            own = [replace(s, key=f"{s.key}-{number}", title=f"{s.title}: {model.name}") for s in own]
        sections += own
    sections += [_memory_section(models), _gpu_section(models)]
    if len(models) == 1:  # its name stands above all
        sections = [replace(s, table=s.table and s.table.without("model")) for s in sections]
    return Report(
        kind="inference",
        title=f"Inference profile of {', '.join(model.name for model in models)}",
        lead=_lead(profile),
        sections=tuple(sections),
        data=profile.to_dict(),
        warnings=profile.warnings,
        facts=_facts(profile),
    )


def _lead(profile: InferenceProfile) -> str:
    s = profile.settings
    measured = dict.fromkeys(row.engine for model in profile.models for row in model.latency.rows)
    parts = [
        f"Measured {profile.created}: {', '.join(measured)} at T = {', '.join(map(str, s.timesteps))}, batch "
        f"{', '.join(map(str, s.batches))}, threads {', '.join(map(str, s.threads))}."
    ]
    for model in profile.models:
        parts.append(f"{model.name} ({human_bytes(model.path.stat().st_size)}) saw {model.samples.source}.")
        if model.samples.labels is None:
            parts.append("There is no accuracy without labelled images: give --dataset and --data.")
    return " ".join(parts)


def _facts(profile: InferenceProfile) -> dict[str, dict[str, str]]:
    facts = {}
    for model in profile.models:
        title = "Model" if len(profile.models) == 1 else f"Model {model.name}"
        facts[title] = {"file": str(model.path), **model.metadata}
    settings = {
        key: ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
        if isinstance(value, list | tuple)
        else str(value)
        for key, value in profile.settings.to_dict().items()
        if value not in (None, (), [])
    }
    return {**facts, "Settings": settings, "Machine": profile.machine}


def _memory_section(models: list[ModelProfile]) -> Section:
    columns = (
        Column("model"), Column("engine"), Column("file", "MB", ".3f"),
        Column("resident after load", "MB", ".1f", "growth of the process, libraries left out"),
        Column("peak", "MB", ".1f", "growth up to the end of the first run"),
        Column("load", "ms", ".1f"), Column("load and first run", "ms", ".1f"),
    )  # fmt: skip
    rows = tuple(
        (
            model.name,
            engine,
            m.file / 1e6,
            m.resident / 1e6,
            m.peak / 1e6,
            1e3 * m.load_seconds,
            1e3 * m.first_result_seconds,
        )
        for model in models
        for engine, m in model.memory.items()
    )
    if not rows:
        return Section("memory", "Memory", "Memory was measured of none of these engines.")
    name, engine, _, resident, peak, load, _ = min(rows, key=lambda row: row[4])
    says = f"{name} in {engine}: {resident:.1f} MB after loading, {peak:.1f} MB at most, ready in {load:.1f} ms."
    notes = ("Medians over three fresh processes. OpenVINO and torch run other forms of the network and are left out.",)
    return Section("memory", "Memory and loading", says, Table(columns, rows), (), notes)


def _counters_section(model: ModelProfile) -> Section:
    counters, title, what = model.counters, "CPU counters", f"{model.layers.engine}, batch 1"
    if isinstance(counters, CountersUnavailable):
        return Section("counters", title, f"CPU counters were not read: {counters.reason}.")
    rows = tuple((name.replace("_", " "), value) for name, value in asdict(counters).items())
    says = f"What one run costs, {what}."
    if counters.instructions and counters.cycles:
        says = f"{counters.instructions / counters.cycles:.2f} instructions per cycle, {what}."
    return Section("counters", title, says, Table((Column("counter"), Column("per run", form=",.0f")), rows))


def _gpu_section(models: list[ModelProfile]) -> Section:
    columns = (
        Column("model"), Column("precision"), Column("CUDA graph"), Column("T", form="d"), Column("batch", form="d"),
        Column("p50", "ms", ".3f", "by CUDA events"), Column("p95", "ms", ".3f"), Column("n", form="d"),
    )  # fmt: skip
    rows = tuple(
        (m.name, r.precision, r.graph, r.timesteps, r.batch, r.p50, r.p95, r.n) for m in models for r in m.gpu.rows
    )
    if not rows:
        return Section("gpu", "GPU", f"{models[0].gpu.missing}.".capitalize())
    name, precision, _, t, batch, p50, _, _ = min(rows, key=lambda row: row[5])
    says = f"torch, dense: at best {p50:.3f} ms ({name}, {precision}, T = {t}, batch {batch})."
    notes = (
        *dict.fromkeys(m.gpu.missing for m in models if m.gpu.missing),
        *(f"{key}: {value}" for key, value in models[0].gpu.facts.items()),
    )
    return Section("gpu", "GPU", says, Table(columns, rows), (), notes)
