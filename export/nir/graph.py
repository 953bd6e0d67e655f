"""The structure of a NIR graph: read from a file, subgraphs flattened, put in order. Needs no torch.

Nothing here looks at parameters. What is wrong is collected, not raised one at a time, so that whoever reads the
message can mend the network in one go.
"""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import ModelError, extra
from spiketicket.files import read_bytes

with extra("nir", "reading and writing NIR", "nir"):
    import h5py
    import nir
    from nir.serialization import hdf2dict, read_version

__all__ = ["Flat", "describe", "flatten", "load", "nir", "numbers", "read_version"]


@dataclass
class Flat:
    """A NIR graph without subgraphs: nodes in the order of execution, those that have no place in it last.

    `sources`: of each node, the nodes whose outputs it sums up. `input` and `output` are the names of the graph's
    only Input and Output. `problems`: what is wrong, one line each.
    """

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    problems: list[str] = field(default_factory=list)

    def readers(self) -> Counter[str]:
        """How often each node's output is read."""
        return Counter(source for sources in self.sources.values() for source in sources)


def load(path: Path) -> nir.NIRGraph:
    """The NIR graph in the file `path`. Raises ModelError where it is none, or damaged."""
    data = read_bytes(path, "NIR file", ModelError)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            tree = hdf2dict(file["node"])
        _leave_unchecked(tree)
        graph = nir.dict2NIRNode(tree)
    except Exception as error:  # h5py and nir raise whatever comes
        reason = str(error) or type(error).__name__
        raise ModelError(f"{path}: not a NIR file, or damaged: {reason}") from error
    if not isinstance(graph, nir.NIRGraph):
        raise ModelError(f"{path}: holds a single {type(graph).__name__}, not a NIRGraph")
    return graph


def _leave_unchecked(tree: dict[str, Any]) -> None:
    """nir's own check of types takes every kernel for square and every convolution for one group."""
    kind = tree.get("type")
    if kind not in nir.ir.__all__:
        raise ValueError(f"node of unknown type {kind!r}")
    if kind == "NIRGraph":
        tree["type_check"] = False
        for node in tree["nodes"].values():
            _leave_unchecked(node)


def flatten(graph: nir.NIRGraph) -> Flat:
    """The computing nodes of `graph` in order; see Flat. Raises nothing: problems are in the result."""
    flat = Flat()
    every: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    _expand(graph, "", every, edges, flat.problems)
    flat.input = _only(flat, graph, nir.Input)
    flat.output = _only(flat, graph, nir.Output)
    for (source, target), count in Counter(edges).items():
        if count > 1:
            flat.problems.append(
                f"{target}: the edge from {source} stands {count} times, and simulators disagree whether it counts "
                f"as often: write it once, and a Scale where it shall"
            )
    sources: dict[str, list[str]] = {name: [] for name in every}
    for source, target in dict.fromkeys(edges):
        sources[target].append(source)
    inner = [name for name, node in every.items() if isinstance(node, nir.Input | nir.Output)]
    for name in inner:
        if name not in (flat.input, flat.output):
            _bypass(name, sources)
    order = _order(every, sources, flat)
    order += [name for name in sources if name not in order]
    flat.nodes = {name: every[name] for name in order}
    flat.sources = sources
    return flat


def numbers(node: nir.NIRNode, key: str) -> NDArray[np.float64]:
    """A parameter as float64 array, whether nir or torch holds it. Raises ModelError."""
    try:
        return np.asarray(getattr(node, key), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{key} is no array of numbers: {error}") from error


def describe(name: str, node: nir.NIRNode) -> str:
    """`fc1 (Affine [10, 20])`: how messages call a node."""
    parameters = (value for key, value in vars(node).items() if not key.startswith(("input", "output", "metadata")))
    shape = next((list(value.shape) for value in parameters if getattr(value, "shape", ())), None)
    return f"{name} ({type(node).__name__}{'' if shape is None else f' {shape}'})"


def _expand(
    graph: nir.NIRGraph,
    prefix: str,
    nodes: dict[str, nir.NIRNode],
    edges: list[tuple[str, str]],
    problems: list[str],
) -> None:
    """Collect the nodes and edges of `graph`, those of subgraphs under `subgraph.node`."""
    inlet, outlet = {}, {}  # the node that an edge to or from a name really reaches
    for name, node in graph.nodes.items():
        inlet[name] = outlet[name] = prefix + name
        if isinstance(node, nir.NIRGraph):
            _expand(node, f"{prefix}{name}.", nodes, edges, problems)
            for ends, kind in ((inlet, nir.Input), (outlet, nir.Output)):
                found = [key for key, inner in node.nodes.items() if isinstance(inner, kind)]
                if len(found) != 1:
                    problems.append(f"{prefix}{name} (NIRGraph): needs one {kind.__name__}, has {found}")
                ends[name] = f"{prefix}{name}.{found[0]}" if found else ""
        else:
            if prefix + name in nodes:
                problems.append(f"two nodes are called {prefix + name}: rename one")
            nodes[prefix + name] = node
    for source, target in graph.edges:
        unknown = [end for end in (source, target) if end not in inlet]
        there = f"there are {', '.join(graph.nodes)}"
        problems += [f"edge {source} -> {target}: there is no node {prefix + end!r}, {there}" for end in unknown]
        if not unknown and outlet[source] and inlet[target]:
            edges.append((outlet[source], inlet[target]))


def _only(flat: Flat, graph: nir.NIRGraph, kind: type[nir.NIRNode]) -> str:
    found = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        names = f": {', '.join(found)}" if found else ""
        flat.problems.append(f"the graph has {len(found)} nodes of kind {kind.__name__}{names}; exactly one is needed")
    return found[0] if found else ""


def _bypass(name: str, sources: dict[str, list[str]]) -> None:
    """Take the Input or Output of a subgraph out: who reads it reads its sources."""
    behind = sources.pop(name)
    for target, before in sources.items():
        sources[target] = [s for source in before for s in (behind if source == name else [source])]


def _order(nodes: Mapping[str, nir.NIRNode], sources: dict[str, list[str]], flat: Flat) -> list[str]:
    """Names of `sources`, each behind its own sources; cycles and loose ends are reported and left out."""
    targets: dict[str, list[str]] = {name: [] for name in sources}
    for name, before in sources.items():
        for source in before:
            targets[source].append(name)
    order = _peel(sources)
    cyclic = set(sources) - set(order)
    cyclic -= set(_peel({name: targets[name] for name in cyclic}))  # only behind a cycle, not on one
    for name in sorted(cyclic):
        flat.problems.append(
            f"{describe(name, nodes[name])}: on a cycle: recurrent connections cannot be expressed: unroll them or "
            f"train without"
        )
    fed, used = _reach(flat.input, targets), _reach(flat.output, sources)
    if not flat.problems:  # they would explain most loose ends
        for name in order:
            if name not in fed or name not in used:
                where = "not reached by the input" if name not in fed else "leads to no output"
                flat.problems.append(f"{describe(name, nodes[name])}: {where}: connect it or remove it")
    return [name for name in order if name in fed and name in used]


def _peel(sources: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names of `sources`, each after those that it lists; names on a cycle or after one are left out."""
    sorter = TopologicalSorter({name: [s for s in before if s in sources] for name, before in sources.items()})
    with suppress(CycleError):  # all that is not on a cycle can still be had
        sorter.prepare()
    order: list[str] = []
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order


def _reach(start: str, steps: Mapping[str, Iterable[str]]) -> set[str]:
    """`start` and all that follows from it."""
    seen, ahead = set(), [start] if start in steps else []
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += steps[name]
    return seen
