"""The symbolic tensor that a network's forward pass is called with while torch.fx traces it."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from spiketicket.errors import ModelError


class Root(nn.Module):
    """A module that calls a network with one tensor, so that optional arguments of its forward keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)


class SymbolicTensor(fx.Proxy):
    """A tensor of the forward pass. Its shape and number of timesteps are known; the batch size is symbolic."""

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
        """Return the tensor itself: devices do not matter here. Raises ModelError for a type other than float32."""
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

    # Without these methods Python would replace `x += y` by `x = x + y`, and the change in place would be lost.
    def __iadd__(self, other: Any) -> Any:
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
