"""Torch network -> sparse graph: follow one forward pass symbolically, fold batch norm, pack the survivors as CSR.

The pass is followed by torch.fx: modules that the graph knows (module_rules.py) and operations between them
(function_rules.py) are translated one by one; batch and timesteps stay symbolic, so that neither is specialised.

A network takes its timesteps in one of several ways, all of which lead to the same graph:

- single-step neurons, one call per timestep;
- multi-step neurons and `[T, N, ...]`, given by the caller or repeated by the network itself;
- single-step neurons called in a loop over the timesteps: the rounds of the loop are recognised as one computation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base, functional, layer
from torch import Tensor, fx, nn

from spiketicket.errors import ModelError
from spiketicket.export import function_rules
from spiketicket.export.advice import advice
from spiketicket.export.builder import INPUT, Builder
from spiketicket.export.module_rules import find_rule, is_neuron
from spiketicket.export.traced import Lead, LeadError, Size, Traced, UnknownError
from spiketicket.graph import Graph
from spiketicket.train import layers, norms

# Modules that take whatever stands before the shape.
ANY_LEAD = (nn.Linear, nn.Identity, nn.modules.dropout._DropoutNd, layer.Dropout, nn.Flatten, layers.Repeat)


@dataclass(frozen=True)
class Calls:
    """How the torch network is run over T timesteps."""

    per_step: bool  # called once per timestep, its outputs `[N, classes]` in a row; else once
    repeated: bool  # its input is static, and repeated over time by the caller
    output: Lead  # BATCH where per_step; TIME (a tensor or a list); MEAN


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
) -> tuple[Graph, Calls]:
    """As `trace`, and how the network has to be called to compute the same."""
    problems = _state_problems(network)
    if network.training:
        problems.append("the network is in training mode: call network.eval()")
    if problems:
        raise _refusal(problems)
    readings = []
    for lead in (Lead.BATCH, Lead.TIME):
        reading = _Reading(network, Builder(input_shape, timed), timesteps, lead)
        if not reading.problems:
            return reading.finish(dict(metadata or {}))
        readings.append(reading)
    raise _refusal(min(readings, key=lambda reading: (reading.misread, len(reading.problems))).problems)


def _refusal(problems: list[str]) -> ModelError:
    return ModelError("\n  ".join(["the network cannot be exported:", *problems]))


def _state_problems(network: nn.Module) -> list[str]:
    names = [n for n, m in network.named_modules() if is_neuron(m) and isinstance(m._memories.get("v"), Tensor)]
    if not names:
        return []
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0] or 'the neuron'}{others}: the state of an earlier run is left in the neurons: call "
            "spikingjelly.activation_based.functional.reset_net(network)"]  # fmt: skip


class _Root(nn.Module):
    """Calls a network with one tensor: optional arguments of its forward pass keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)


class _Tensor(fx.Proxy):
    """A tensor of the forward pass. It knows its shape, and how many timesteps it has; the batch is a symbol."""

    @property
    def shape(self) -> Any:
        assert isinstance(self.tracer, _Reading)
        return self.tracer.dims(self.node)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        each: Any = self
        return (each[t] for t in range(len(self)))


class _Reading(fx.Tracer):
    """One reading of the network, whose input has the given lead: translates operations as they come."""

    def __init__(self, network: nn.Module, builder: Builder, timesteps: int, lead: Lead) -> None:
        super().__init__()
        root = _Root(network)
        self.modules = {name: module for name, module in root.named_modules() if name}
        self.builder, self.timesteps, self.lead = builder, timesteps, lead
        self.problems: list[str] = []
        self.misread = 0  # how many of them may come from reading it with the wrong lead
        self.env: dict[fx.Node, Any] = {}
        self.known: dict[Any, Any] = {}  # what was computed, by operation and operands
        self.neuron_steps: Counter[str] = Counter()
        self.neuron_input: dict[str, Any] = {}
        self.output: Any = None
        self.follow(root)

    def follow(self, root: nn.Module) -> None:
        try:
            self.trace(root)
            self.check_rounds()
        except UnknownError:
            pass  # what was found before is the reason
        except (fx.proxy.TraceError, ModelError, TypeError, NameError, AttributeError) as error:
            if not self.problems:  # else a consequence of these
                self.problems.append(
                    f"the forward pass cannot be followed: {error}. It may branch on settings, shapes and the number "
                    "of timesteps, not on values or the batch"
                )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = next(m.children(), None) is None and type(m).__module__.startswith(("torch.nn", "spikingjelly."))
        return find_rule(m) is not None or isinstance(m, base.MemoryModule) or inside

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if any(isinstance(argument, fx.Proxy) for argument in (*args, *kwargs.values())):
            return super().call_module(m, forward, args, kwargs)
        return forward(*args, **kwargs)  # of weights alone: a parametrization

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Tensor(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters as they are: the rules read them

    def create_arg(self, a: Any) -> Any:
        return a if isinstance(a, Size) else super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        try:
            self.env[node] = self.visit(node)
        except UnknownError:
            self.env[node] = UnknownError
        except ModelError as error:
            self.problems.append(str(error))
            self.misread += isinstance(error, LeadError)
            self.env[node] = self.beyond(node)
        return node

    def beyond(self, node: fx.Node) -> Any:
        """What comes out of a layer that cannot be exported, as far as its shape goes, so that what follows is judged
        as well: the layer computes on zeros."""
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return UnknownError
        (x,), module = (self.env[source] for source in node.all_input_nodes), self.modules[str(node.target)]
        if not isinstance(x, Traced) or x.inverted:
            return UnknownError
        dims = self.place(node.name).dims(x)
        ahead = len(dims) - len(self.builder.torch_shape(x.value))
        lead = [1 if isinstance(dim, Size) else dim for dim in dims[:ahead]]
        like = next(module.parameters(), torch.empty(0))
        try:
            with torch.no_grad():
                out = module(like.new_zeros(*lead, *dims[len(lead) :]))
            functional.reset_net(module)
            if list(out.shape[: len(lead)]) == lead and len(out.shape) > len(lead):
                return Traced(self.builder.unknown(tuple(out.shape[len(lead) :]), like=x.value), x.lead)
        except Exception:  # of a module that nobody knows: then what follows stays unknown
            pass
        return UnknownError

    def visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return Traced(INPUT, self.lead)
        if node.op == "get_attr":
            raise ModelError(f"{node.target}: a tensor used as it is, outside a layer, has no place in the graph")
        if node.op == "output":
            self.output = self.operand(node.args[0])
            return None
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            name = str(node.target).removeprefix("network").removeprefix(".") or "layer"
            return self.call_layer(node, name, module)
        return self.call_function(node)

    def place(self, name: str) -> function_rules.Place:
        return function_rules.Place(self.builder, name, self.timesteps)

    def dims(self, node: fx.Node) -> tuple[Any, ...]:
        x = self.look_up(node)
        if not isinstance(x, Traced):
            raise ModelError(f"asks {x!r} for its shape")
        return self.place(node.name).dims(x)

    def operand(self, argument: Any) -> Any:
        return _map(argument, self.look_up)

    def look_up(self, node: fx.Node) -> Any:
        if self.env[node] is UnknownError:
            raise UnknownError
        return self.env[node]

    def call_function(self, node: fx.Node) -> Any:
        name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))
        where = f"{node.name} (operation {name})"
        rule = function_rules.find(node.target)
        if rule is None:
            raise ModelError(f"{where}: {advice(name)}")
        args, kwargs = self.operand(node.args), self.operand(node.kwargs)
        key = (node.target, _key(args), _key(kwargs))
        if key not in self.known:
            try:
                self.known[key] = rule(self.place(node.name), *args, **kwargs)
            except (TypeError, AttributeError) as error:  # operands that the rule has no parameter for
                raise ModelError(f"{where}: called in a way that cannot be exported: {error}") from error
            except ModelError as error:
                raise type(error)(f"{where}: {error}") from error
        return self.known[key]

    def call_layer(self, node: fx.Node, name: str, module: nn.Module) -> Any:
        rule = find_rule(module)
        unknown = any(self.env[source] is UnknownError for source in node.all_input_nodes)
        x = None if unknown else self.operand(node.args[0])
        where = f"{name} ({type(module).__name__}{self.describe(x)})"
        if rule is None:
            raise ModelError(f"{where}: {advice(type(module).__name__, module)}")
        if unknown:
            raise UnknownError
        if not isinstance(x, Traced) or len(node.args) != 1 or node.kwargs:
            raise ModelError(f"{where}: expected to be called with one tensor")
        if is_neuron(module):
            self.count_timesteps(where, name, module, x)
        key = (name, x)
        if key not in self.known:
            try:
                self.known[key] = self.translate(rule, name, module, x)
            except ModelError as error:
                raise type(error)(f"{where}: {str(error).removeprefix(f'layer {name}: ')}") from error
        return self.known[key]

    def translate(self, rule: Callable[..., str], name: str, module: nn.Module, x: Traced) -> Traced:
        lead = _lead(module, x)
        if isinstance(module, layers.Repeat):
            return function_rules.repeat(self.place(name), x, module.timesteps, *[1] * len(self.place(name).dims(x)))
        if isinstance(module, nn.Flatten):
            folds = getattr(module, "step_mode", "s") == "m"  # its dimensions are those of [T * N, ...]
            start, end = (dim + (folds and dim > 0) for dim in (module.start_dim, module.end_dim))
            return function_rules.flatten(self.place(name), x, start, end)
        return Traced(rule(self.builder, module, name, x.value), lead)

    def describe(self, x: Any) -> str:
        return f", input {list(self.builder.torch_shape(x.value))}" if isinstance(x, Traced) else ""

    def count_timesteps(self, where: str, name: str, module: Any, x: Traced) -> None:
        """A neuron's n-th call is its n-th timestep: it has to be fed by the same computation in every call."""
        if self.neuron_input.setdefault(name, x) != x:
            raise ModelError(f"{where}: stands in two places of the network, which would share its state: give each "
                             "place a neuron of its own")  # fmt: skip
        self.neuron_steps[name] += self.timesteps if module.step_mode == "m" else 1

    def check_rounds(self) -> None:
        counts = set(self.neuron_steps.values())
        if self.problems:
            return
        if not counts:
            self.problems.append("no neuron in it: nothing spikes")
        elif len(counts) > 1:
            (many, most), *_, (few, least) = self.neuron_steps.most_common()
            self.problems.append(f"{few} runs {least} timesteps and {many} {most}: expected the same for all neurons")
        elif counts not in ({1}, {self.timesteps}):
            self.problems.append(f"the network runs {counts.pop()} timesteps by itself, but timesteps is "
                                 f"{self.timesteps}")  # fmt: skip
        else:
            self.check_output(looped=counts == {self.timesteps} and self.timesteps > 1)

    def check_output(self, looped: bool) -> None:
        out = self.output
        if isinstance(out, list | tuple) and len(out) == self.timesteps and all(y == out[0] for y in out):
            out = function_rules.stack(self.place("output"), out)
        if not isinstance(out, Traced) or out.inverted:
            self.problems.append("the network must return one tensor of logits, or a list of one per timestep")
        elif out.lead not in (Lead.BATCH, Lead.TIME, Lead.MEAN) or (looped and out.lead is Lead.BATCH):
            self.problems.append(f"the network returns {out}, expected logits of every timestep or their mean")
        elif (out.lead is Lead.BATCH) != (self.lead is Lead.BATCH) and (
            self.lead is Lead.TIME or self.builder.timed_input
        ):
            self.problems.append(f"the network makes {out} of {self.lead.value}: expected as many timesteps as it gets")
        else:
            self.output = out

    def finish(self, metadata: dict[str, str]) -> tuple[Graph, Calls]:
        out, b = self.output, self.builder
        calls = Calls(out.lead is Lead.BATCH, self.lead is Lead.TIME and not b.timed_input, out.lead)
        return b.graph(b.timed(out.value), self.timesteps, metadata), calls


def _lead(module: nn.Module, x: Traced) -> Lead:
    """Checks what stands before the input's shape; modules leave it as it is."""
    if x.inverted:
        raise ModelError("gets 1 - spikes, which only a product can take")
    if isinstance(module, ANY_LEAD):
        return x.lead
    if isinstance(module, norms.TimestepBatchNorm2d) and not isinstance(module, norms.StaticBatchNorm2d):
        return _need(x, Lead.TIME).lead
    if isinstance(module, base.StepModule) and module.step_mode == "m":
        return _need(x, Lead.TIME, " in multi-step mode").lead
    if is_neuron(module):
        return _need(x, Lead.BATCH, " in single-step mode").lead
    if x.lead not in (Lead.BATCH, Lead.FOLDED):
        _need(x, Lead.BATCH, "")
    return x.lead


def _need(x: Traced, lead: Lead, mode: str = "") -> Traced:
    if x.lead is not lead:
        raise LeadError(f"takes {lead.value}{mode}, gets {x}")
    return x


def _map(argument: Any, look_up: Callable[[fx.Node], Any]) -> Any:
    if isinstance(argument, fx.Node):
        return look_up(argument)
    if isinstance(argument, list | tuple):
        return type(argument)(_map(item, look_up) for item in argument)
    if isinstance(argument, dict):
        return {key: _map(item, look_up) for key, item in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_map(item, look_up) for item in (argument.start, argument.stop, argument.step)))
    return argument


def _key(argument: Any) -> Any:
    """`argument` as something that can be compared and hashed."""
    if isinstance(argument, list | tuple):
        return tuple(map(_key, argument))
    if isinstance(argument, dict):
        return tuple((key, _key(item)) for key, item in sorted(argument.items()))
    if isinstance(argument, slice):
        return ("slice", argument.start, argument.stop, argument.step)
    return argument if not isinstance(argument, torch.Tensor) else id(argument)
