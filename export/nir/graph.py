"""Read a NIR file, flatten its subgraphs and sort its nodes. Needs no torch.

This module looks at the structure only, not at parameters. Problems are collected rather than raised one by one, so
that one message lists all of them.
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

__all__ = ["FlatGraph", "describe", "flatten", "load", "nir", "numbers", "read_version"]


@dataclass
class FlatGraph:
    """A NIR graph without subgraphs, its nodes in the order of execution (those on cycles or unconnected come last).

    `sources` maps each node to the nodes whose outputs it sums up. `input` and `output` are the names of the graph's
    only Input and Output. `problems` has one line for everything that is wrong.
    """

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    problems: list[str] = field(default_factory=list)

    def readers(self) -> Counter[str]:
        """Return how often each node's output is read."""
        return Counter(source for sources in self.sources.values() for source in sources)


def load(path: Path) -> nir.NIRGraph:
    """Return the NIR graph in the file `path`. Raises ModelError if the file is damaged or of another format."""
    data = read_bytes(path, "NIR file", ModelError)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            tree = hdf2dict(file["node"])
        _leave_unchecked(tree)
        graph = nir.dict2NIRNode(tree)
    except Exception as error:  # h5py and nir can raise anything for a damaged file
        reason = str(error) or type(error).__name__
        raise ModelError(f"{path}: not a NIR file, or damaged: {reason}") from error
    if not isinstance(graph, nir.NIRGraph):
        raise ModelError(f"{path}: holds a single {type(graph).__name__}, not a NIRGraph")
    return graph


def _leave_unchecked(tree: dict[str, Any]) -> None:
    """Switch off nir's own check of shapes, which assumes square kernels and convolutions of one group."""
    kind = tree.get("type")
    if kind not in nir.ir.__all__:
        raise ValueError(f"node of unknown type {kind!r}")
    if kind == "NIRGraph":
        tree["type_check"] = False
        for node in tree["nodes"].values():
            _leave_unchecked(node)


def flatten(graph: nir.NIRGraph) -> FlatGraph:
    """Return `graph` without subgraphs and in order. Nothing is raised: problems are listed in the result."""
    flat = FlatGraph()
    every: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    _expand(graph, "", every, edges, flat.problems)
    flat.input = _only(flat, graph, nir.Input)
    flat.output = _only(flat, graph, nir.Output)
    for (source, target), count in Counter(edges).items():
        if count > 1:
            flat.problems.append(
                f"{target}: the edge from {source} is there {count} times, and simulators disagree on whether it is "
                f"summed up as often: write it once, with a Scale if it shall be"
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
    """Return a parameter of a node, NumPy's or torch's, as float64 array. Raises ModelError if it is not numeric."""
    try:
        return np.asarray(getattr(node, key), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{key} is no array of numbers: {error}") from error


def describe(name: str, node: nir.NIRNode) -> str:
    """Return a node's name, kind and shape for messages, such as `fc1 (Affine [10, 20])`."""
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
    """Collect the nodes and edges of `graph`; those of subgraphs are named `subgraph.node`."""
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


def _only(flat: FlatGraph, graph: nir.NIRGraph, kind: type[nir.NIRNode]) -> str:
    """Return the name of the only node of a kind; report a problem if there is not exactly one."""
    found = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        names = f": {', '.join(found)}" if found else ""
        flat.problems.append(f"the graph has {len(found)} nodes of kind {kind.__name__}{names}; exactly one is needed")
    return found[0] if found else ""


def _bypass(name: str, sources: dict[str, list[str]]) -> None:
    """Remove the Input or Output of a subgraph: the nodes that read it then read its sources."""
    behind = sources.pop(name)
    for target, before in sources.items():
        sources[target] = [s for source in before for s in (behind if source == name else [source])]


def _order(nodes: Mapping[str, nir.NIRNode], sources: dict[str, list[str]], flat: FlatGraph) -> list[str]:
    """Return the names of `sources`, sorted by dependency; cycles and edges to missing nodes become problems."""
    targets: dict[str, list[str]] = {name: [] for name in sources}
    for name, before in sources.items():
        for source in before:
            targets[source].append(name)
    order = _sorted_without_cycles(sources)
    cyclic = set(sources) - set(order)
    cyclic -= set(
        _sorted_without_cycles({name: targets[name] for name in cyclic})
    )  # those behind a cycle are not on one
    for name in sorted(cyclic):
        flat.problems.append(
            f"{describe(name, nodes[name])}: on a cycle: recurrent connections cannot be expressed: unroll them or "
            f"train without"
        )
    fed, used = _reachable(flat.input, targets), _reachable(flat.output, sources)
    if not flat.problems:  # other problems would explain most loose ends
        for name in order:
            if name not in fed or name not in used:
                where = "not reached by the input" if name not in fed else "leads to no output"
                flat.problems.append(f"{describe(name, nodes[name])}: {where}: connect it or remove it")
    return [name for name in order if name in fed and name in used]


def _sorted_without_cycles(sources: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names of `sources`, each after those that it lists; names on a cycle or after one are left out."""
    sorter = TopologicalSorter({name: [s for s in before if s in sources] for name, before in sources.items()})
    with suppress(CycleError):  # the nodes before a cycle can still be sorted
        sorter.prepare()
    order: list[str] = []
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order


def _reachable(start: str, steps: Mapping[str, Iterable[str]]) -> set[str]:
    """Return `start` and everything that can be reached from it through `steps`."""
    seen, ahead = set(), [start] if start in steps else []
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += steps[name]
    return seen


def unique_name(used: set[str], name: str) -> str:
    """Return `name`, with underscores appended if it is among the `used` names, and add it to them."""
    while name in used:
        name += "_"
    used.add(name)
    return name
