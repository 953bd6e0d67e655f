"""Torch network -> sparse graph: follow one forward pass symbolically, fold batch norm, pack the survivors as CSR.

The pass is followed by torch.fx: modules that the graph knows (module_rules.py) and operations between them
(function_rules.py) are translated one by one; batch and timesteps stay symbolic, so that neither is specialised.

A network takes its timesteps in one of several ways, all of which lead to the same graph:

- single-step neurons, one call per timestep;
- multi-step neurons and `[T, N, ...]`, given by the caller or repeated by the network itself;
- single-step neurons called in a loop over the timesteps: the rounds of the loop are recognised as one computation.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from spiketicket.errors import ModelError
from spiketicket.export.torch.builder import Builder
from spiketicket.export.torch.traced import LeadingDims
from spiketicket.export.torch.tracer import ForwardPassTracer, RecordedCalls
from spiketicket.graph import Graph


def trace(
    network: nn.Module,
    input_shape: tuple[int, ...],
    timesteps: int,
    *,
    timed: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Graph:
    """The graph of a network in evaluation mode, batch norm folded in float64; zero weights are dropped.

    `input_shape`: of one image or signal, without batch and time. `timed`: the network is fed `[T, N, *input_shape]`
    or another `[N, *input_shape]` at every timestep; else the same at all. Raises ModelError that lists everything
    which has no place in the graph.
    """
    return trace_calls(network, input_shape, timesteps, timed=timed, metadata=metadata)[0]


def trace_calls(
    network: nn.Module,
    input_shape: tuple[int, ...],
    timesteps: int,
    *,
    timed: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Graph, RecordedCalls]:
    """As `trace`, and how the network has to be called to compute the same."""
    if network.training:
        raise _refusal(["the network is in training mode: call network.eval()"])
    readings = []
    for lead in (LeadingDims.TIME, LeadingDims.BATCH) if timed else (LeadingDims.BATCH, LeadingDims.TIME):
        reading = _read(network, input_shape, timed, timesteps, lead)
        if not reading.problems:
            graph, calls = reading.finish(dict(metadata or {}))
            return graph, replace(calls, one_t=calls.one_t or _differs(network, graph, lead))
        readings.append(reading)
    best = min(readings, key=lambda reading: (reading.misread, len(reading.problems)))
    raise _refusal(best.problems) from best.cause


def _read(
    network: nn.Module, input_shape: tuple[int, ...], timed: bool, timesteps: int, lead: LeadingDims
) -> ForwardPassTracer:
    layer_names = [name or "layer" for name, _ in network.named_modules()]
    return ForwardPassTracer(network, Builder(input_shape, timed, layer_names), timesteps, lead)


def _refusal(problems: list[str]) -> ModelError:
    return ModelError("\n  ".join(["the network cannot be exported:", *problems]))


def _differs(network: nn.Module, graph: Graph, lead: LeadingDims) -> bool:
    """Whether the network is another one for another T. One that has its own T in its code cannot be asked."""
    other = _read(network, graph.input_shape, graph.timed_input, graph.timesteps + 1, lead)
    return not other.problems and _structure(other.finish({})[0]) != _structure(graph)


def _structure(graph: Graph) -> list[tuple[type, str, tuple[str, ...]]]:
    return [(type(node), node.output, node.inputs) for node in graph.nodes]
