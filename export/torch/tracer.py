"""Trace a network's forward pass with torch.fx, and translate every operation into nodes of the sparse graph.

Tracing and translation happen together: `create_node` translates each fx node as soon as it is recorded, because the
forward pass may ask for the shapes of intermediate tensors, which only the translation knows.
"""

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
from spiketicket.export.torch.rules.shapes import LEADING_COUNT, RuleContext
from spiketicket.export.torch.symbolic import Root, SymbolicTensor
from spiketicket.export.torch.traced import LeadingDims, LeadingDimsError, Size, Steps, Traced, UnknownError
from spiketicket.graph import Graph
from spiketicket.train.networks import layers

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class RecordedCalls:
    """How the torch network is run over T timesteps."""

    per_step: bool  # called once per timestep, each call returns `[N, classes]`; otherwise it is called once
    repeated: bool  # the input is static, and the caller has to repeat it over time
    output: LeadingDims  # BATCH if per_step, otherwise TIME (one tensor or a list) or MEAN
    depends_on_timesteps: bool = False  # for another T, the network may compute something else


class ForwardPassTracer(fx.Tracer):
    """One trace of the forward pass of `network`, for an input with the dimensions `leading` before its own shape.

    What cannot be exported is collected in `problems` rather than raised, so that one message can list all of it.
    """

    def __init__(self, network: nn.Module, builder: Builder, timesteps: int, leading: LeadingDims) -> None:
        super().__init__()
        root = Root(network)
        self.modules = {name: module for name, module in root.named_modules() if name}
        self.builder, self.timesteps, self.leading = builder, timesteps, leading
        self.problems: list[str] = []
        self.leading_problems = 0  # number of problems that may vanish if the input has other leading dimensions
        self.env: dict[fx.Node, Any] = {}  # the value of each fx node
        self.layer_outputs: dict[tuple[str, Traced], str] = {}  # output of a layer for an input: loops call it again
        self.memory: dict[fx.Node, fx.Node] = {}  # tensor -> the first of the tensors that share its memory
        self.compared: list[str] = []  # numbers that the forward pass compares T with
        self.cause: Exception | None = None
        self.neuron_steps: Counter[str] = Counter()  # timesteps that each neuron layer has run so far
        self.neuron_input: dict[str, Any] = {}  # the input of each neuron layer, which must be the same in every call
        self.output: Any = None
        self.follow(root)

    def follow(self, root: nn.Module) -> None:
        """Trace the forward pass and check its timesteps and output; exceptions become entries of `problems`."""
        try:
            self.trace(root)
            self.check_neuron_steps()
        except UnknownError:
            pass  # the layer that could not be exported is among the problems already
        except Exception as error:  # the user's forward pass can raise anything
            if not self.problems:  # otherwise the error is most likely a consequence of them
                self.cause, self.leading_problems = error, self.leading_problems + (not isinstance(error, ModelError))
                symbolic = isinstance(error, fx.proxy.TraceError)
                kind = "" if symbolic or isinstance(error, ModelError) else f"{type(error).__name__}: "
                hint = ". It may branch on settings and shapes, not on values of tensors" if symbolic else ""
                self.problems.append(f"the forward pass cannot be followed: {kind}{error}{hint}")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A leaf is translated as a whole. SpikingJelly's and torch's own layers are leaves even without a rule, so that
        # a message names the layer instead of an operation inside it.
        own = type(m).__module__.startswith(("torch.nn", "spikingjelly.")) and not isinstance(m, CONTAINERS)
        inside = own and next(m.children(), None) is None
        return find_rule(m) is not None or isinstance(m, base.MemoryModule) or inside

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        weights = not any(isinstance(argument, fx.Proxy) for argument in (*args, *kwargs.values()))
        if weights or (isinstance(m, CONTAINERS) and not self.is_leaf_module(m, "")):
            return forward(*args, **kwargs)  # a parametrization computes weights; a container's parts are traced
        try:
            return super().call_module(m, forward, args, kwargs)
        except NameError as error:
            raise ModelError(f"a {type(m).__name__} is created in the forward pass: create it in __init__") from error

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return SymbolicTensor(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters are not made symbolic: the rules read their values

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
            self.leading_problems += isinstance(error, LeadingDimsError)
            self.env[node] = self.shape_of_unsupported(node)
        return node

    def shape_of_unsupported(self, node: fx.Node) -> Any:
        """Return a value with the shape of the output of a layer that cannot be exported.

        With it, the layers that follow are checked as well. The shape is found by running the layer on zeros.
        """
        sources = [self.env[source] for source in node.all_input_nodes]
        if not sources or any(not isinstance(x, Traced) or x.inverted for x in sources):
            return UnknownError
        zeros = dict(zip(node.all_input_nodes, map(self.zeros, sources), strict=True))
        args: Any = map_arg(node.args, zeros.__getitem__)
        kwargs: Any = map_arg(node.kwargs, zeros.__getitem__)
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        count = LEADING_COUNT[sources[0].leading]
        try:
            with torch.no_grad():
                if isinstance(node.target, str):
                    out = module(*args, **kwargs) if module else getattr(args[0], node.target)(*args[1:], **kwargs)
                else:
                    out = node.target(*args, **kwargs)
            if module is not None:
                functional.reset_net(module)
            if out.shape[:count] == args[0].shape[:count] and out.dim() > count:
                value = self.builder.unknown(tuple(out.shape[count:]), like=sources[0].value)
                return replace(sources[0], value=value)
        except Exception:  # an unknown layer can raise anything; what follows it is then not checked
            pass
        return UnknownError

    def zeros(self, x: Traced) -> Tensor:
        """Return zeros in the shape of `x`, for a batch of one."""
        dims = self.context("").dims(x)
        return torch.zeros([(dim.timesteps or 1) if isinstance(dim, Size) else dim for dim in dims])

    def visit(self, node: fx.Node) -> Any:
        """Translate one fx node and return its value."""
        if node.op == "placeholder":
            return Traced(INPUT, self.leading)
        if node.op == "get_attr":
            raise ModelError(f"{node.target}: a parameter or buffer that is used outside a layer cannot be exported")
        if node.op == "output":
            self.output = self.operand(node.args[0])
            return None
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            name = str(node.target).removeprefix("network").removeprefix(".") or "layer"
            return self.call_layer(node, name, module)
        return self.call_function(node)

    def context(self, name: str) -> RuleContext:
        return RuleContext(self.builder, name, self.timesteps)

    def dims(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the shape of a tensor as the forward pass sees it; sizes that depend on the batch are symbols."""
        x = self.look_up(node)
        if not isinstance(x, Traced):
            raise ModelError(f"asks for the shape of {x!r}, which is no tensor")
        dims = self.context(node.name).dims(x)
        if x.leading is not LeadingDims.TIME:
            return dims
        steps = Steps(self.timesteps)
        steps.compared_with = self.compared
        return (steps, *dims[1:])

    def operand(self, argument: Any) -> Any:
        """Return `argument` with every fx node in it replaced by its value."""
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
            result = rule(self.context(node.name), *args, **kwargs)
        except (TypeError, AttributeError) as error:  # the rule has no parameter for these operands
            raise ModelError(f"{where}: called in a way that cannot be exported: {error}") from error
        except ModelError as error:
            raise type(error)(f"{where}: {error}") from error
        self.record_alias(node, result, rule in function_rules.VIEWS)
        return result

    def record_alias(self, node: fx.Node, result: Any, view: bool) -> None:
        """Record which tensors share memory in torch, and carry a change in place over to all of them.

        Raises ModelError if an operation changes a tensor in place that shares memory with a tensor of another value:
        the graph cannot express the effect on that one.
        """
        source = next(iter(node.all_input_nodes), None)
        x = self.env.get(source) if source is not None else None
        if source is None or not isinstance(x, Traced) or not isinstance(result, Traced):
            return
        if node.target in function_rules.IN_PLACE and node.args[0] is source:
            first = self.memory.get(source, source)
            shared = [other for other, root in self.memory.items() if root is first and other is not source]
            if any(self.env[other] != x for other in shared):
                raise ModelError(
                    f"{node.name}: changes a tensor in place that another tensor is a view of: use a plain sum"
                )
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
        self.record_alias(node, result, isinstance(module, nn.Flatten) or result.value == x.value)
        return result

    def translate(self, rule: Callable[..., str], name: str, module: Any, x: Traced) -> Traced:
        leading = leading_dims(module, x)
        if isinstance(module, layers.Repeat):
            return shape_rules.repeat(self.context(name), x, module.timesteps, *[1] * len(self.context(name).dims(x)))
        if isinstance(module, nn.Flatten):
            # A multi-step Flatten sees [T * N, ...], so its dimensions behind the batch are one further in [T, N, ...].
            folds = getattr(module, "step_mode", "s") == "m"
            start, end = (dim + (folds and dim > 0) for dim in (module.start_dim, module.end_dim))
            return shape_rules.flatten(self.context(name), x, start, end)
        step = self.timestep(name, module, x) if is_neuron(module) else x.step
        # In a loop over time, a layer is called again on what is the same computation at another timestep.
        key = (name, x.without_step)
        if key not in self.layer_outputs:
            self.builder.reserved.discard(name)
            self.layer_outputs[key] = rule(self.builder, module, name, x.value)
        return Traced(self.layer_outputs[key], leading, step=step)

    def describe(self, x: Any) -> str:
        return f", input {list(self.builder.torch_shape(x.value))}" if isinstance(x, Traced) else ""

    def timestep(self, name: str, module: Any, x: Traced) -> int | None:
        """Return the timestep that this call of a neuron computes, or None if it computes all of them at once.

        The n-th call of a single-step neuron is its n-th timestep, so every call must have the same input, each at the
        timestep of the call. Raises ModelError otherwise.
        """
        if self.neuron_input.setdefault(name, x.without_step) != x.without_step:
            raise ModelError(
                "is used in two places of the network, which would share its state: give each its own neuron"
            )
        if module.step_mode == "m":
            self.neuron_steps[name] += self.timesteps
            return None
        call = self.neuron_steps[name]
        self.neuron_steps[name] += 1
        if x.step not in (None, call):
            raise ModelError(f"gets timestep {x.step} in its call {call}: expected the timesteps in order")
        return call

    def check_neuron_steps(self) -> None:
        """Check that all neurons run the same number of timesteps: one per call of the network, or all T."""
        counts = set(self.neuron_steps.values())
        if self.problems:
            return
        if not counts:
            self.problems.append("it has no spiking neuron")
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
        """Check that the network returns logits, of each timestep or their mean over time."""
        out = self.output
        if isinstance(out, list | tuple) and len(out) == self.timesteps:
            out = shape_rules.stack(self.context("output"), out)
        if not isinstance(out, Traced) or out.inverted:
            self.problems.append("the network must return one tensor of logits, or a list of one per timestep")
        elif out.leading is LeadingDims.SUM:
            self.problems.append(
                "the network returns the sum of its logits over time: divide it by the number of "
                "timesteps (the class stays the same)"
            )
        elif out.leading not in (LeadingDims.BATCH, LeadingDims.TIME, LeadingDims.MEAN) or (
            looped and out.leading is LeadingDims.BATCH
        ):
            self.problems.append(f"the network returns {out}, expected logits of every timestep or their mean")
        elif (out.leading is LeadingDims.BATCH) != (self.leading is LeadingDims.BATCH) and (
            self.leading is LeadingDims.TIME or self.builder.timed_input
        ):
            self.problems.append(
                f"the network returns {out} for {self.leading.value}: expected the same timesteps as its input"
            )
        else:
            self.output = out

    def finish(self, metadata: dict[str, str]) -> tuple[Graph, RecordedCalls]:
        """Return the graph, and how the network has to be called; only for a trace without problems."""
        out, b = self.output, self.builder
        repeated = self.leading is LeadingDims.TIME and not b.timed_input
        calls = RecordedCalls(out.leading is LeadingDims.BATCH, repeated, out.leading, bool(self.compared))
        return b.graph(b.timed(out.value), self.timesteps, metadata), calls
