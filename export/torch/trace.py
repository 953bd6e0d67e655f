"""Torch network -> sparse graph: follow one forward pass symbolically, fold batch norm, pack the survivors as CSR.

torch.fx traces the pass: modules (rules/modules.py) and the operations between them (rules/functions.py,
rules/shapes.py) are translated one by one. The batch size stays symbolic, so the graph takes any; the number of
timesteps is the given one, and whether the network depends on it is checked.

A network takes its timesteps in one of several ways, all of which lead to the same graph:

- single-step neurons, one call per timestep;
- multi-step neurons and `[T, N, ...]`, given by the caller or repeated by the network itself;
- single-step neurons called in a loop over the timesteps: the iterations are recognised as one computation.
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
    """Return the sparse graph of a network in evaluation mode. Batch norm is folded in float64, zeros are dropped.

    `input_shape` is the shape of one image or signal, without batch and time. If `timed`, the input differs from
    timestep to timestep: the network takes `[T, N, *input_shape]`, or one `[N, *input_shape]` per timestep. Otherwise
    it is the same at all of them. `metadata` become those of the graph. Raises ModelError, which lists everything that
    cannot be exported.
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
    """Return what `trace` does, and how the network has to be called to compute the same."""
    if network.training:
        raise _refusal(["the network is in training mode: call network.eval()"])
    # Whether the network takes one timestep per call or all of them at once shows only in the trace: try both.
    attempts = []
    for leading in (LeadingDims.TIME, LeadingDims.BATCH) if timed else (LeadingDims.BATCH, LeadingDims.TIME):
        attempt = _trace_once(network, input_shape, timed, timesteps, leading)
        if not attempt.problems:
            graph, calls = attempt.finish(dict(metadata or {}))
            depends = calls.depends_on_timesteps or _differs_for_more_timesteps(network, graph, leading)
            return graph, replace(calls, depends_on_timesteps=depends)
        attempts.append(attempt)
    # Report the problems of the attempt that is more likely what was meant.
    best = min(attempts, key=lambda attempt: (attempt.leading_problems, len(attempt.problems)))
    raise _refusal(best.problems) from best.cause


def _trace_once(
    network: nn.Module, input_shape: tuple[int, ...], timed: bool, timesteps: int, leading: LeadingDims
) -> ForwardPassTracer:
    layer_names = [name or "layer" for name, _ in network.named_modules()]
    return ForwardPassTracer(network, Builder(input_shape, timed, layer_names), timesteps, leading)


def _refusal(problems: list[str]) -> ModelError:
    return ModelError("\n  ".join(["the network cannot be exported:", *problems]))


def _differs_for_more_timesteps(network: nn.Module, graph: Graph, leading: LeadingDims) -> bool:
    """Return whether the network has another graph for T + 1 timesteps.

    A network whose code fixes T cannot be traced for another one: then the answer is False.
    """
    other = _trace_once(network, graph.input_shape, graph.timed_input, graph.timesteps + 1, leading)
    return not other.problems and _structure(other.finish({})[0]) != _structure(graph)


def _structure(graph: Graph) -> list[tuple[type, str, tuple[str, ...]]]:
    return [(type(node), node.output, node.inputs) for node in graph.nodes]
