"""One reading of a network's forward pass, by torch.fx: every operation is translated as it comes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base, functional
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from spiketicket.errors import ModelError
from spiketicket.export.torch.advice import advice
from spiketicket.export.torch.builder import INPUT, Builder
from spiketicket.export.torch.leading import leading_dims
from spiketicket.export.torch.rules import functions as function_rules
from spiketicket.export.torch.rules import shapes as shape_rules
from spiketicket.export.torch.rules.modules import find_rule, is_neuron
from spiketicket.export.torch.rules.shapes import AHEAD, Place
from spiketicket.export.torch.symbolic import Root, SymbolicTensor
from spiketicket.export.torch.traced import LeadError, LeadingDims, Size, Steps, Traced, UnknownError
from spiketicket.graph import Graph
from spiketicket.train.networks import layers

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class RecordedCalls:
    """How the torch network is run over T timesteps."""

    per_step: bool  # called once per timestep, its outputs `[N, classes]` in a row; else once
    repeated: bool  # its input is static, and repeated over time by the caller
    output: LeadingDims  # BATCH where per_step; TIME (a tensor or a list); MEAN
    one_t: bool = False  # it compares T with other numbers, and may be another network for another T


class ForwardPassTracer(fx.Tracer):
    """One reading of the network, whose input has the given lead: translates operations as they come."""

    def __init__(self, network: nn.Module, builder: Builder, timesteps: int, lead: LeadingDims) -> None:
        super().__init__()
        root = Root(network)
        self.modules = {name: module for name, module in root.named_modules() if name}
        self.builder, self.timesteps, self.lead = builder, timesteps, lead
        self.problems: list[str] = []
        self.misread = 0  # how many of them may come from reading it with the wrong lead
        self.env: dict[fx.Node, Any] = {}
        self.known: dict[tuple[str, Traced], str] = {}  # what a layer made of an input
        self.memory: dict[fx.Node, fx.Node] = {}  # the first of the tensors that share memory
        self.compared: list[str] = []  # numbers that the forward pass compares T with
        self.cause: Exception | None = None
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
        except Exception as error:  # of the user's forward pass
            if not self.problems:  # else a consequence of these
                self.cause, self.misread = error, self.misread + (not isinstance(error, ModelError))
                symbolic = isinstance(error, fx.proxy.TraceError)
                kind = "" if symbolic or isinstance(error, ModelError) else f"{type(error).__name__}: "
                hint = ". It may branch on settings and shapes, not on values" if symbolic else ""
                self.problems.append(f"the forward pass cannot be followed: {kind}{error}{hint}")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).__module__.startswith(("torch.nn", "spikingjelly.")) and not isinstance(m, CONTAINERS)
        inside = own and next(m.children(), None) is None
        return find_rule(m) is not None or isinstance(m, base.MemoryModule) or inside

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        weights = not any(isinstance(argument, fx.Proxy) for argument in (*args, *kwargs.values()))
        if weights or (isinstance(m, CONTAINERS) and not self.is_leaf_module(m, "")):
            return forward(*args, **kwargs)  # a parametrization; part of a Sequential
        try:
            return super().call_module(m, forward, args, kwargs)
        except NameError as error:
            raise ModelError(f"a {type(m).__name__} is made in the forward pass: make it in __init__") from error

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return SymbolicTensor(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters as they are: the rules read them

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Steps | np.integer):
            return int(a)
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
            self.env[node] = self.shape_of_unsupported(node)
        return node

    def shape_of_unsupported(self, node: fx.Node) -> Any:
        """Return a value of the shape that a layer which cannot be exported gives, so that the layers behind it are
        checked as well. The shape is found by computing the layer on zeros."""
        sources = [self.env[source] for source in node.all_input_nodes]
        if not sources or any(not isinstance(x, Traced) or x.inverted for x in sources):
            return UnknownError
        zeros = dict(zip(node.all_input_nodes, map(self.zeros, sources), strict=True))
        args: Any = map_arg(node.args, zeros.__getitem__)
        kwargs: Any = map_arg(node.kwargs, zeros.__getitem__)
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        ahead = AHEAD[sources[0].lead]
        try:
            with torch.no_grad():
                if isinstance(node.target, str):
                    out = module(*args, **kwargs) if module else getattr(args[0], node.target)(*args[1:], **kwargs)
                else:
                    out = node.target(*args, **kwargs)
            if module is not None:
                functional.reset_net(module)
            if out.shape[:ahead] == args[0].shape[:ahead] and out.dim() > ahead:
                value = self.builder.unknown(tuple(out.shape[ahead:]), like=sources[0].value)
                return replace(sources[0], value=value)
        except Exception:  # of something that nobody knows: then what follows stays unknown
            pass
        return UnknownError

    def zeros(self, x: Traced) -> Tensor:
        dims = self.place("").dims(x)
        return torch.zeros([(dim.timesteps or 1) if isinstance(dim, Size) else dim for dim in dims])

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

    def place(self, name: str) -> Place:
        return Place(self.builder, name, self.timesteps)

    def dims(self, node: fx.Node) -> tuple[Any, ...]:
        x = self.look_up(node)
        if not isinstance(x, Traced):
            raise ModelError(f"asks {x!r} for its shape")
        dims = self.place(node.name).dims(x)
        if x.lead is not LeadingDims.TIME:
            return dims
        steps = Steps(self.timesteps)
        steps.compared_with = self.compared
        return (steps, *dims[1:])

    def operand(self, argument: Any) -> Any:
        return map_arg(argument, self.look_up)

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
        try:
            result = rule(self.place(node.name), *args, **kwargs)
        except (TypeError, AttributeError) as error:  # operands that the rule has no parameter for
            raise ModelError(f"{where}: called in a way that cannot be exported: {error}") from error
        except ModelError as error:
            raise type(error)(f"{where}: {error}") from error
        self.note_alias(node, result, rule in function_rules.VIEWS)
        return result

    def note_alias(self, node: fx.Node, result: Any, view: bool) -> None:
        """Tensors that torch holds in one memory: changing one in place changes the others."""
        source = next(iter(node.all_input_nodes), None)
        x = self.env.get(source) if source is not None else None
        if source is None or not isinstance(x, Traced) or not isinstance(result, Traced):
            return
        if node.target in function_rules.IN_PLACE and node.args[0] is source:
            shared = [
                n for n, root in self.memory.items() if root is self.memory.get(source, source) and n is not source
            ]
            if any(self.env[other] != x for other in shared):
                raise ModelError(f"{node.name}: changes in place what another tensor is a view of: use a plain sum")
            for changed in (source, *shared):
                self.env[changed] = result
            self.memory[node] = self.memory.setdefault(source, source)
        elif view:
            self.memory[node] = self.memory.setdefault(source, source)

    def call_layer(self, node: fx.Node, name: str, module: nn.Module) -> Any:
        rule = find_rule(module)
        given = (*node.args, *node.kwargs.values())
        unknown = any(self.env[source] is UnknownError for source in node.all_input_nodes)
        x = None if unknown or len(given) != 1 else self.operand(given[0])
        where = f"{name} ({type(module).__name__}{self.describe(x)})"
        if rule is None:
            raise ModelError(f"{where}: {advice(type(module).__name__, module)}")
        if unknown:
            raise UnknownError
        if not isinstance(x, Traced):
            raise ModelError(f"{where}: expected to be called with one tensor")
        try:
            result = self.translate(rule, name, module, x)
        except ModelError as error:
            raise type(error)(f"{where}: {str(error).removeprefix(f'layer {name}: ')}") from error
        self.note_alias(node, result, isinstance(module, nn.Flatten) or result.value == x.value)
        return result

    def translate(self, rule: Callable[..., str], name: str, module: Any, x: Traced) -> Traced:
        lead = leading_dims(module, x)
        if isinstance(module, layers.Repeat):
            return shape_rules.repeat(self.place(name), x, module.timesteps, *[1] * len(self.place(name).dims(x)))
        if isinstance(module, nn.Flatten):
            folds = getattr(module, "step_mode", "s") == "m"  # its dimensions are those of [T * N, ...]
            start, end = (dim + (folds and dim > 0) for dim in (module.start_dim, module.end_dim))
            return shape_rules.flatten(self.place(name), x, start, end)
        step = self.timestep(name, module, x) if is_neuron(module) else x.step
        key = (name, x.anytime)
        if key not in self.known:
            self.builder.reserved.discard(name)
            self.known[key] = rule(self.builder, module, name, x.value)
        return Traced(self.known[key], lead, step=step)

    def describe(self, x: Any) -> str:
        return f", input {list(self.builder.torch_shape(x.value))}" if isinstance(x, Traced) else ""

    def timestep(self, name: str, module: Any, x: Traced) -> int | None:
        """A neuron's n-th call is its n-th timestep: it has to be fed by the same computation in every call."""
        if self.neuron_input.setdefault(name, x.anytime) != x.anytime:
            raise ModelError(
                "stands in two places of the network, which would share its state: give each a neuron of its own"
            )
        if module.step_mode == "m":
            self.neuron_steps[name] += self.timesteps
            return None
        call = self.neuron_steps[name]
        self.neuron_steps[name] += 1
        if x.step not in (None, call):
            raise ModelError(f"gets timestep {x.step} in its call {call}: expected timesteps in their order")
        return call

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
            self.problems.append(
                f"the network runs {counts.pop()} timesteps by itself, but timesteps is {self.timesteps}"
            )
        else:
            self.check_output(looped=counts == {self.timesteps} and self.timesteps > 1)

    def check_output(self, looped: bool) -> None:
        out = self.output
        if isinstance(out, list | tuple) and len(out) == self.timesteps:
            out = shape_rules.stack(self.place("output"), out)
        if not isinstance(out, Traced) or out.inverted:
            self.problems.append("the network must return one tensor of logits, or a list of one per timestep")
        elif out.lead is LeadingDims.SUM:
            self.problems.append(
                "the network returns the sum of its logits over time: divide it by the number of "
                "timesteps (the class stays the same)"
            )
        elif out.lead not in (LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.MEAN) or (
            looped and out.lead is LeadingDims.BATCH
        ):
            self.problems.append(f"the network returns {out}, expected logits of every timestep or their mean")
        elif (out.lead is LeadingDims.BATCH) != (self.lead is LeadingDims.BATCH) and (
            self.lead is LeadingDims.TIME or self.builder.timed_input
        ):
            self.problems.append(f"the network makes {out} of {self.lead.value}: expected as many timesteps as it gets")
        else:
            self.output = out

    def finish(self, metadata: dict[str, str]) -> tuple[Graph, RecordedCalls]:
        out, b = self.output, self.builder
        repeated = self.lead is LeadingDims.TIME and not b.timed_input
        calls = RecordedCalls(out.lead is LeadingDims.BATCH, repeated, out.lead, bool(self.compared))
        return b.graph(b.timed(out.value), self.timesteps, metadata), calls
