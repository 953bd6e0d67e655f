"""`export`, which writes a spiking torch module as a verified model file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spiketicket import __version__
from spiketicket.errors import InputError, ModelError
from spiketicket.export.check.agreement import DEFAULT, Tolerance
from spiketicket.export.check.check import Check, Original, Samples, check_samples
from spiketicket.export.formats.settings import ExportFormat
from spiketicket.export.pack import Export, pack, versions
from spiketicket.export.torch.original import Masks, prepared, refuse_kept_tensors, refuse_unfit, run_torch
from spiketicket.export.torch.trace import trace_calls
from spiketicket.runtime.engine import check_timesteps


def export(
    module: nn.Module,
    sample: Tensor | NDArray[np.float32],
    timesteps: int,
    path: str | os.PathLike[str],
    masks: Masks | None = None,
    *,
    timed: bool = False,
    labels: NDArray[np.integer] | None = None,
    check: bool = True,
    atol: float = DEFAULT.atol,
    rtol: float = DEFAULT.rtol,
    metadata: Mapping[str, str] | None = None,
    **options: Any,
) -> Export:
    """Write a spiking network as one sparse ONNX file, verified on `sample`.

    `module` consists of the layers in docs/export.md, with SpikingJelly's neurons in single-step mode (called once per
    timestep, or in a loop of its own) or multi-step mode. It is left as it was, its neurons reset. `sample` is float32
    `[N, ...]`, the same at every timestep, or `[T, N, ...]` if `timed`. `masks` are zeros and ones by parameter name;
    without them, the zeros among the weights are taken as pruned. `labels` `[N]` of the samples are for accuracies.

    With `check`, the network, the float64 oracle and all engines must agree on the samples before the file is written:
    in nearly every spike, and in logits up to `atol` plus `rtol` times the largest logit of a sample. `metadata` are
    stored in the file. `options` are the settings of the file, those of
    `spiketicket.export.formats.settings.ExportFormat`.

    Raises ModelError, which lists everything that cannot be exported, VerificationError, which names the first layer
    that differs, and InputError if samples, masks or options are invalid.
    """
    _require(isinstance(module, nn.Module), "module", "a torch.nn.Module", module)
    _require(isinstance(timed, bool), "timed", "True or False", timed)
    _require(isinstance(check, bool), "check", "True or False", check)
    _require(masks is None or isinstance(masks, Mapping), "masks", "a mapping of parameter names to masks", masks)
    given = {} if metadata is None else metadata
    texts = isinstance(given, Mapping) and all(isinstance(text, str) for item in given.items() for text in item)
    _require(texts, "metadata", "a mapping of str to str", given)
    x, leading, timesteps = _array(sample, timed), 1 + timed, check_timesteps(timesteps)
    settings, tolerance = ExportFormat(**options), Tolerance(atol, rtol)
    refuse_unfit(module)
    with prepared(module, masks):
        made_by = {"exporter": __version__, "versions": versions("torch", "spikingjelly")}
        described = {**made_by, "arch": type(module).__name__, **given}
        graph, calls = trace_calls(module, x.shape[leading:], timesteps, timed=timed, metadata=described)
        refuse_kept_tensors(module)
        if calls.depends_on_timesteps and not settings.fixed_timesteps:
            raise ModelError(
                "the forward pass compares the number of timesteps with another number, so that it may "
                "compute something else for another T: fix T (fixed_timesteps=True; --timesteps T)"
            )
        samples = Samples(check_samples(x, graph), timesteps, timed, _labels(labels, x.shape[int(timed)]))
        original = Original("torch", lambda part: run_torch(module, calls, part, timesteps, timed))
        return pack(graph, Path(path), settings, Check(samples, tolerance) if check else None, original)


def _require(fits: bool, name: str, expected: str, got: object) -> None:
    if not fits:
        raise InputError(f"{name} must be {expected}, got {got!r:.80}")


def _array(sample: object, timed: bool) -> NDArray[np.float32]:
    """Return the sample as an array. Raises InputError if it is not float32 with enough dimensions."""
    x: Any = sample
    if isinstance(x, Tensor) and (x.dtype, x.layout, x.is_meta) == (torch.float32, torch.strided, False):
        x = x.detach().cpu().numpy()
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim <= 1 + timed:
        raise InputError(f"sample must be float32 [{'T, ' if timed else ''}N, ...], dense, got {_shape(x)}")
    return x


def _labels(labels: NDArray[np.integer] | None, count: int) -> NDArray[np.integer] | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"labels must be whole numbers [{count}], one per sample, got {_shape(found)}")
    return found


def _shape(x: object) -> str:
    """Return type and shape of a value, for messages."""
    if isinstance(x, Tensor):
        return f"{x.dtype} {list(x.shape)}, {x.layout}, on {x.device}"
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
