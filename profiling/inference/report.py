"""The report of an inference profile."""

from dataclasses import replace

from spiketicket.profiling.inference.profile import InferenceProfile, ModelProfile
from spiketicket.profiling.inference.sections import (
    accuracy_section,
    first_logits_section,
    latency_section,
    throughput_section,
)
from spiketicket.profiling.layers.sections import sections as layer_sections
from spiketicket.profiling.report.document import Column, Report, Section, Table
from spiketicket.text import human_bytes


def inference_report(profile: InferenceProfile) -> Report:
    """Return the report: sections of all models together, then the layers of each, then memory."""
    models = profile.models
    found = [
        latency_section(models, profile.settings.percentiles),
        first_logits_section(models),
        accuracy_section(models),
        throughput_section(models),
    ]
    sections = [section for section in found if section is not None]
    for number, model in enumerate(models, 1):
        own = list(layer_sections(model.layers))
        if len(models) > 1:
            own = [replace(s, key=f"{s.key}-{number}", title=f"{s.title}: {model.name}") for s in own]
        sections += own
    sections.append(_memory_section(models))
    if len(models) == 1:  # the title has its name
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
        parts.append(f"{model.name} ({human_bytes(model.path.stat().st_size)}), on {model.samples.source}.")
        if model.samples.labels is None:
            parts.append("Accuracy was not measured, because that needs labelled images: give --dataset and --data.")
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
        Column("model"),
        Column("engine"),
        Column("file", "MB", ".3f"),
        Column("resident after load", "MB", ".1f", "growth of the process, without libraries"),
        Column("peak", "MB", ".1f", "growth up to the end of the first run"),
        Column("load", "ms", ".1f"),
        Column("load and first run", "ms", ".1f"),
    )
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
        return Section("memory", "Memory", "Memory was not measured for any of these engines.")
    name, engine, _, resident, peak, load, _ = min(rows, key=lambda row: row[4])
    says = f"{name} in {engine}: {resident:.1f} MB after loading, {peak:.1f} MB at most, ready in {load:.1f} ms."
    notes = ("Medians over three fresh processes. OpenVINO and torch run other forms of the network and are left out.",)
    return Section("memory", "Memory and loading", says, Table(columns, rows), (), notes)
