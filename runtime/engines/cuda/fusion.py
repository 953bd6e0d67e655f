"""The sparse graph as a list of kernels: which nodes one launch computes together."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from spiketicket.graph import (
    Add,
    And,
    Concat,
    Conv,
    Flatten,
    Graph,
    Li,
    Lif,
    Linear,
    MaxPool,
    Node,
    Repeat,
    Unsqueeze,
)
from spiketicket.runtime.engine import image_shape

SPIKES, TIMED, STATIC = 1, 2, 3  # content of a buffer; `Kind` in common.cuh
VIEWS = (Flatten, Repeat, Unsqueeze)  # their output is the input in another shape
POOL = (2, 2)  # the pooling window that a launch can compute as well


@dataclass(frozen=True)
class Op:
    """One launch: `node`, then, where they are present, the sum with the value `other`, the neuron, and 2x2
    max-pooling.
    """

    node: Node
    inputs: tuple[str, ...]
    output: str
    parts: tuple[str, ...]  # names of the nodes that it computes, in order
    other: str | None = None
    neuron: Lif | Li | None = None
    pooled: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs if self.other is None else (*self.inputs, self.other)


@dataclass(frozen=True)
class Fused:
    """The `ops` in order, the `kinds` of all computed values, and for every value of the graph the computed value that
    is its source (a view has the source of what it views).
    """

    graph: Graph
    ops: tuple[Op, ...]
    kinds: dict[str, int]
    sources: dict[str, str]

    def shape(self, value: str) -> tuple[int, int, int]:
        """Return the shape of a computed value as an image, also of vectors `[F]` and signals `[C, L]`."""
        return image_shape(self.graph.values[value].shape)


def fuse(graph: Graph, *, pooling: bool = True) -> Fused:
    """Compute a node together with the layer before it if nothing else reads that layer.

    Without `pooling`, max-pooling stays apart, so that the spikes of all neurons are computed values.
    """
    sources = {graph.input: graph.input}
    for node in graph.nodes:
        sources[node.output] = sources[node.inputs[0]] if isinstance(node, VIEWS) else node.output
    nodes = [node for node in graph.nodes if not isinstance(node, VIEWS)]
    readers = Counter([sources[graph.output], *(sources[name] for node in nodes for name in node.inputs)])
    made: dict[str, Op] = {}  # by output, in order
    for node in nodes:
        inputs = tuple(sources[name] for name in node.inputs)
        own = [made[name] for name in inputs if name in made and readers[name] == 1]
        taken = _taken(node, inputs, own, pooling)
        if taken is None:
            taken = Op(node, inputs, node.output, (node.name,))
        else:
            made = {name: op for name, op in made.items() if not set(op.parts) & set(taken.parts)}
        made[node.output] = taken
    return Fused(graph, tuple(made.values()), _kinds(graph, made.values()), sources)


def _taken(node: Node, inputs: tuple[str, ...], own: list[Op], pooling: bool) -> Op | None:
    """Return the op of `own`, which nothing else reads, extended by `node`, or None if that is not possible."""
    for op in reversed(own):
        grown = replace(op, output=node.output, parts=(*op.parts, node.name))
        weighted, bare = isinstance(op.node, Conv | Linear), op.neuron is None
        if isinstance(node, Add) and weighted and bare and op.other is None:
            return replace(grown, other=next(name for name in inputs if name != op.output))
        if isinstance(node, Lif) and bare and (weighted or isinstance(op.node, Add)):
            return replace(grown, neuron=node)
        fires = weighted and isinstance(op.neuron, Lif) and not op.pooled
        if pooling and fires and isinstance(node, MaxPool) and _by_twos(node):
            return replace(grown, pooled=True)
    return None


def _by_twos(pool: MaxPool) -> bool:
    return (pool.kernel, pool.strides) == (POOL, POOL) and not any(pool.pads)


def _kinds(graph: Graph, ops: Iterable[Op]) -> dict[str, int]:
    kinds = {graph.input: TIMED if graph.timed_input else STATIC}
    for op in ops:
        read = {kinds[name] for name in op.reads}
        spikes = isinstance(op.node, And) or (isinstance(op.node, Concat | MaxPool) and read == {SPIKES})
        if isinstance(op.neuron or op.node, Lif) or spikes:
            kinds[op.output] = SPIKES
        elif isinstance(op.neuron or op.node, Li) or read != {STATIC}:
            kinds[op.output] = TIMED
        else:
            kinds[op.output] = STATIC
    return kinds


def pads(fused: Fused) -> dict[str, tuple[int, int, int, int]]:
    """Return the border that every computed value needs: the most that a convolution reads beyond it.

    It is given as top, left, bottom, right.
    """
    found = dict.fromkeys(fused.kinds, (0, 0, 0, 0))
    for op in fused.ops:
        if isinstance(op.node, Conv):
            top, left, bottom, right = map(max, found[op.inputs[0]], op.node.pads)
            found[op.inputs[0]] = top, left, bottom, right
    return found
