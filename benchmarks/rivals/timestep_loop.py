"""The rivals of the training benchmark: the same network, with the same weights, of SpikingJelly's own layers.

`LoopNetwork` runs every layer once per timestep, as the paper's authors do. `folded_network` has SpikingJelly's
multi-step layers, which fold time into the batch, and so (unlike in the paper) into the statistics of batch norm.
"""

from copy import deepcopy

import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, fx, nn

from spiketicket.train.networks.layers import LIFNode, Repeat
from spiketicket.train.networks.norms import StaticBatchNorm2d


class LoopNetwork(nn.Module):
    """A network that loops over timesteps, from images `[N, C, H, W]` to logits `[T, N, classes]`.

    The layers in front of the first neurons run once, since the image is the same at every timestep; all others run T
    times.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        graph = _Tracer().trace(network)
        single_step = _with_spikingjelly_layers(network, "s")
        for name, child in single_step.named_children():
            self.add_module(name, child)
        self.parts = _split(graph, single_step)  # a tuple, so that parameters are not registered under a second name
        self.timesteps = next(module.timesteps for module in network.modules() if isinstance(module, Repeat))

    def forward(self, x: Tensor) -> Tensor:
        once, each = self.parts
        current = once(x)
        return torch.stack([each(current) for _ in range(self.timesteps)])


def folded_network(network: nn.Module) -> nn.Module:
    """Return a copy of `network` with SpikingJelly's multi-step neurons and batch norm."""
    return _with_spikingjelly_layers(network, "m")


class _Tracer(fx.Tracer):
    """A tracer that records neurons and modules without children as one call each."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, neuron.BaseNode) or not any(m.children())


def _split(graph: fx.Graph, modules: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Split the network into the layers before Repeat and those after it."""
    once, each = fx.Graph(), fx.Graph()
    graphs = [once]
    copies: dict[fx.Node, fx.Node] = {}  # by the node of `graph`
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules.get_submodule(str(node.target)), Repeat):
            once.output(copies[node.args[0]])
            copies = {node: each.placeholder("current")}
            graphs.append(each)
        else:
            copies[node] = graphs[-1].node_copy(node, lambda source: copies[source])  # noqa: B023
    return fx.GraphModule(modules, once), fx.GraphModule(modules, each)


def _with_spikingjelly_layers(network: nn.Module, step_mode: str) -> nn.Module:
    """Return a copy of `network` with SpikingJelly's neurons and batch norm, single-step ("s") or multi-step ("m")."""
    copied = deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _batch_norm(child, step_mode))
            elif isinstance(child, LIFNode):
                setattr(parent, name, _neuron(child, step_mode))
            elif getattr(child, "step_mode", "s") == "m":
                child.step_mode = step_mode
    return copied


def _batch_norm(norm: nn.BatchNorm2d, step_mode: str) -> nn.Module:
    timed = not isinstance(norm, StaticBatchNorm2d) and step_mode == "m"
    kind = layer.BatchNorm2d if timed else nn.BatchNorm2d
    replacement = kind(norm.num_features, norm.eps, norm.momentum)
    if timed:
        replacement.step_mode = "m"
    replacement.load_state_dict(norm.state_dict())
    return replacement.to(norm.weight)


def _neuron(node: LIFNode, step_mode: str) -> nn.Module:
    return neuron.LIFNode(
        node.tau,
        node.decay_input,
        node.v_threshold,
        node.v_reset,
        surrogate.ATan(node.surrogate_function.alpha),
        node.detach_reset,
        step_mode,
    )
