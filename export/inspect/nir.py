"""Inspection of NIR files."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from spiketicket.export.inspect.facts import Inspection, Port, graph_layers, provenance, totals
from spiketicket.export.nir.dialects import NIR_DT
from spiketicket.export.nir.graph import flatten, load, read_version
from spiketicket.export.nir.reader import read_nir
from spiketicket.model.names import METADATA_PREFIX, TIMESTEPS
from spiketicket.model.writer import to_onnx


def inspect_nir(path: Path, nbytes: int) -> Inspection:
    """Return the facts of a NIR file and of its sparse graph, with the T and dt in its metadata.

    Files of other programs need not have T and dt; the layers do not depend on them. Raises ModelError if the file is
    damaged or cannot be expressed as a sparse graph.
    """
    source = load(path)
    stored: dict[str, Any] = dict(source.metadata)
    dt, steps = _positive(stored.pop("dt", None)), _positive(stored.pop(TIMESTEPS, None))
    timesteps = None if steps is None or steps < 1 else int(steps)
    graph = read_nir(path, timesteps or 1, dt or NIR_DT)
    producer = str(stored.pop("producer", ""))
    texts = {key: str(value) for key, value in stored.items()}
    metadata, verification = provenance(texts)
    others = {key: text for key, text in texts.items() if not key.startswith(METADATA_PREFIX)}
    missing = [name for name, value in (("dt", dt), (TIMESTEPS, timesteps)) if value is None]
    facts = {"seconds per timestep": f"{dt:g}"} if dt else {}
    if missing:
        facts["not in the file"] = f"{' and '.join(missing)}{f'; read as if dt were {NIR_DT:g} s' if not dt else ''}"
    layers = [replace(layer, nbytes=0) for layer in graph_layers(graph)]  # the file compresses all layers together
    return Inspection(
        path=path,
        nbytes=nbytes,
        kind="nir",
        format=f"NIR {_version(path)}".strip(),
        producer=producer,
        facts=facts,
        inputs=[Port(graph.input, "", ("T", "N", *graph.input_shape))],
        outputs=[Port(flatten(source).output, "", ("T", "N", graph.classes))],
        timesteps=timesteps,
        fixed_timesteps=False,
        metadata={**others, **metadata},
        verification=verification,
        layers=layers,
        totals=totals(layers),
        operators=dict(Counter(type(node).__name__ for node in source.nodes.values()).most_common()),
        dense_nbytes=int(to_onnx(graph, dense=True).ByteSize()),
    )


def _positive(value: Any) -> float | None:
    """Return a value of a file as a positive number, or None if it is not one."""
    with suppress(TypeError, ValueError):
        number = float(value)
        return number if isfinite(number) and number > 0 else None
    return None


def _version(path: Path) -> str:
    with suppress(KeyError, AttributeError):  # the file has no version, or it is not text
        return str(read_version(path))
    return ""
