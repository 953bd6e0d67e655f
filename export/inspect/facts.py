"""The facts of a model file, whatever its format. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spiketicket.errors import ModelError
from spiketicket.export.check.agreement import Agreement
from spiketicket.graph import Conv, Graph, Li, Lif, Linear
from spiketicket.model.metadata import stored_texts, without_prefix
from spiketicket.model.names import METADATA_PREFIX, VERIFICATION


@dataclass(frozen=True)
class Port:
    """An input or output of a file. A size that is not fixed is a name: N images, T timesteps."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of a sparse file, or one weight of a dense file (then without the facts that only the graph has)."""

    name: str
    kind: str
    nbytes: int  # bytes of weight and bias in the file (in a dense file, of the weight)
    output: tuple[int, ...] | None = None  # shape for one image and timestep
    weight: tuple[int, ...] | None = None
    nonzeros: int | None = None
    timed: bool | None = None  # whether it runs at every timestep or only once
    neurons: int = 0
    macs: int = 0  # multiply-accumulates of one run on one image, with the nonzero weights
    dense_macs: int = 0  # the same with all weights
    native: str = ""  # kernel of the native engine, chosen by estimate
    why: str = ""  # the reason for that kernel
    onnxruntime: str = ""  # how onnxruntime runs it
    custom_operators: str = ""  # how onnxruntime runs it with the library of custom operators

    @property
    def density(self) -> float | None:
        return self.nonzeros / prod(self.weight) if self.weight and self.nonzeros is not None else None


@dataclass(frozen=True)
class Totals:
    """Sums over layers. Multiply-accumulates are for one image: of the layers that run once, and per timestep."""

    weights: int
    nonzeros: int
    weight_nbytes: int  # bytes of values and, in a sparse file, of their indices; without biases
    neurons: int
    macs_once: int
    dense_macs_once: int
    macs_per_timestep: int
    dense_macs_per_timestep: int

    @property
    def density(self) -> float:
        return self.nonzeros / max(self.weights, 1)

    @property
    def bytes_per_nonzero(self) -> float:
        return self.weight_nbytes / max(self.nonzeros, 1)


NOTHING = Totals(*[0] * 8)


@dataclass(frozen=True)
class Inspection:
    """The facts of one model file.

    `kind` is "sparse" (ONNX that this project's engines run), "plain" (ONNX that spiketicket wrote without sparse
    layers, also for TensorRT; `layers` are its weights), "nir", or "engine" (of TensorRT, without layers). `operators`
    counts the nodes of the file's graph.
    """

    path: Path
    nbytes: int
    kind: str
    format: str
    producer: str
    facts: dict[str, str]  # facts that only this kind of file has
    inputs: list[Port]
    outputs: list[Port]
    timesteps: int | None  # the default T, or the only one if fixed_timesteps
    fixed_timesteps: bool
    metadata: dict[str, str]  # without the prefix of the keys, and without the verification
    verification: list[Agreement]  # empty if the file has none
    layers: list[Layer] = field(default_factory=list)
    totals: Totals = NOTHING
    operators: dict[str, int] = field(default_factory=dict)
    dense_nbytes: int | None = None  # the same network as plain dense ONNX
    initializer_nbytes: int = 0
    opset: int | None = None  # of ONNX, like ir_version
    ir_version: int | None = None
    custom_operators_built: bool = False  # the library for onnxruntime is part of this installation

    @property
    def dense(self) -> bool:
        return self.kind == "plain"

    def to_dict(self) -> dict[str, Any]:
        layers = [{**asdict(layer), "density": layer.density} for layer in self.layers]
        derived = {"density": self.totals.density, "bytes_per_nonzero": self.totals.bytes_per_nonzero}
        own = {"path": str(self.path), "dense": self.dense}
        return {**asdict(self), **own, "layers": layers, "totals": asdict(self.totals) | derived}


def provenance(texts: Mapping[str, str]) -> tuple[dict[str, str], list[Agreement]]:
    """Return a file's metadata and the results of its verification; keys of other programs are left out.

    Raises ModelError if the verification is damaged.
    """
    own = without_prefix(texts.items())
    return own, _verification(own.pop(VERIFICATION, "[]"))


def onnx_provenance(proto: onnx.ModelProto) -> tuple[dict[str, str], list[Agreement]]:
    """Return the same for an ONNX file."""
    return provenance(dict(stored_texts(proto)))


def _verification(text: str) -> list[Agreement]:
    kinds: dict[str, Any] = {
        "engine": str,
        "against": str,
        "first_layer": str | None,
        "images": int,
        "clean": int,
        "layers": dict,
        "within": bool,
        "accuracy": int | float | None,
    }
    try:
        found = [{field.name: entry[field.name] for field in fields(Agreement)} for entry in json.loads(text)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"metadata {METADATA_PREFIX}{VERIFICATION} is damaged: {error!r}") from error
    for entry in found:
        for key, value in entry.items():
            if not isinstance(value, kinds.get(key, int | float)):
                raise ModelError(f"metadata {METADATA_PREFIX}{VERIFICATION} is damaged: {key} is {value!r}")
    return [Agreement(**entry) for entry in found]


def graph_layers(graph: Graph) -> list[Layer]:
    """Return the layers of a graph, without how engines run them."""
    layers = []
    for node in graph.nodes:
        value = graph.values[node.output]
        weighted = node if isinstance(node, Conv | Linear) else None
        layers.append(
            Layer(
                node.name,
                type(node).__name__,
                weighted.weight.nbytes + weighted.bias.nbytes if weighted else 0,
                value.shape,
                weighted.weight.shape if weighted else None,
                int(np.count_nonzero(weighted.weight.values)) if weighted else None,
                value.timed,
                prod(value.shape) if isinstance(node, Lif | Li) else 0,
                graph.macs(weighted) if weighted else 0,
                graph.macs(weighted, dense=True) if weighted else 0,
            )
        )
    return layers


def totals(layers: list[Layer], bias_nbytes: int = 0) -> Totals:
    """Return the sums over layers; `bias_nbytes` is the number of the layers' bytes that are biases."""

    def macs(timed: bool) -> tuple[int, int]:
        chosen = [layer for layer in layers if layer.timed is timed]
        return sum(layer.macs for layer in chosen), sum(layer.dense_macs for layer in chosen)

    return Totals(
        sum(prod(layer.weight) for layer in layers if layer.weight),
        sum(layer.nonzeros or 0 for layer in layers),
        sum(layer.nbytes for layer in layers) - bias_nbytes,
        sum(layer.neurons for layer in layers),
        *macs(False),
        *macs(True),
    )
