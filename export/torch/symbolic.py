"""What a network's forward pass is called with while torch.fx follows it."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from spiketicket.errors import ModelError


class Root(nn.Module):
    """Calls a network with one tensor: optional arguments of its forward pass keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)


class SymbolicTensor(fx.Proxy):
    """A tensor of the forward pass. It knows its shape, and how many timesteps it has; the batch is a symbol."""

    @property
    def shape(self) -> Any:
        tracer: Any = self.tracer
        return tracer.dims(self.node)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def to(self, *where: Any, **settings: Any) -> "SymbolicTensor":
        """Another device, or the type that it has."""
        types = {x for x in (*where, *settings.values()) if isinstance(x, torch.dtype)}
        if types - {torch.float32}:
            raise ModelError(f"converts to {', '.join(map(str, types))}: networks are exported in float32")
        return self

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def _in_place(self, operation: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    def __iadd__(self, other: Any) -> Any:  # without these, Python would compute another tensor
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        each: Any = self
        return (each[t] for t in range(len(self)))
