"""The rivals of training: the same network of SpikingJelly's own layers, with the same weights.

`LoopNetwork`: the way of the paper's authors, every layer once per timestep. `folded_network`: SpikingJelly's
multi-step layers, time folded into the batch (and, other than in the paper, into batch norm's statistics).
"""

from copy import deepcopy

import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, fx, nn

from spiketicket.train.networks.layers import LIFNode, Repeat
from spiketicket.train.networks.norms import StaticBatchNorm2d


class LoopNetwork(nn.Module):
    """`[N, C, H, W]` -> logits `[T, N, classes]`: layers in front of the first neurons once, all others T times."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        graph = _Tracer().trace(network)
        plain = _plain(network, "s")
        for name, child in plain.named_children():
            self.add_module(name, child)
        self.parts = _split(graph, plain)  # in a tuple, so that parameters keep their names
        self.timesteps = next(module.timesteps for module in network.modules() if isinstance(module, Repeat))

    def forward(self, x: Tensor) -> Tensor:
        once, each = self.parts
        current = once(x)
        return torch.stack([each(current) for _ in range(self.timesteps)])


def folded_network(network: nn.Module) -> nn.Module:
    """Return a copy of `network` with SpikingJelly's multi-step neurons and batch norm."""
    return _plain(network, "m")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, neuron.BaseNode) or not any(m.children())


def _split(graph: fx.Graph, modules: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split the network into the layers before Repeat and those after it."""
    once, each = fx.Graph(), fx.Graph()
    graphs = [once]
    places: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules.get_submodule(str(node.target)), Repeat):
            once.output(places[node.args[0]])
            places = {node: each.placeholder("current")}
            graphs.append(each)
        else:
            places[node] = graphs[-1].node_copy(node, lambda source: places[source])  # noqa: B023
    return fx.GraphModule(modules, once), fx.GraphModule(modules, each)


def _plain(network: nn.Module, step_mode: str) -> nn.Module:
    copied = deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _plain_norm(child, step_mode))
            elif isinstance(child, LIFNode):
                setattr(parent, name, _plain_neuron(child, step_mode))
            elif getattr(child, "step_mode", "s") == "m":
                child.step_mode = step_mode
    return copied


def _plain_norm(norm: nn.BatchNorm2d, step_mode: str) -> nn.Module:
    timed = not isinstance(norm, StaticBatchNorm2d) and step_mode == "m"
    kind = layer.BatchNorm2d if timed else nn.BatchNorm2d
    plain = kind(norm.num_features, norm.eps, norm.momentum)
    if timed:
        plain.step_mode = "m"
    plain.load_state_dict(norm.state_dict())
    return plain.to(norm.weight)


def _plain_neuron(node: LIFNode, step_mode: str) -> nn.Module:
    return neuron.LIFNode(
        node.tau,
        node.decay_input,
        node.v_threshold,
        node.v_reset,
        surrogate.ATan(node.surrogate_function.alpha),
        node.detach_reset,
        step_mode,
    )
