"""Load what users export: a network by its factory, a state dict, masks."""

import importlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiketicket.data.pickles import unpickle_arrays
from spiketicket.errors import DataError, InputError
from spiketicket.export.torch.original import Masks
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build

# Where training scripts put the state dict in a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net")


def load_module(spec: str) -> nn.Module:
    """Return the network that `spec`, `package.file:factory`, names.

    The factory is a torch module, or anything that returns one when called without arguments. The current folder is
    searched, too. Raises InputError if there is no such module or factory, or it raises an exception.
    """
    place, _, name = spec.partition(":")
    if not place or not name:
        raise InputError(f"--module: expected package.file:factory, got {spec!r}")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(place)
    except Exception as error:  # the user's own code
        raise InputError(f"--module: cannot import {place}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"--module: {place} has no {name!r}")
        found = getattr(found, part)
    try:
        network = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:  # the user's own code
        raise InputError(f"--module: {spec} raised {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"--module: {spec} gives {type(network).__name__}, expected a torch.nn.Module")
    return network


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, without running pickled code.

    The prefixes `module.` of DataParallel and `_orig_mod.` of torch.compile are removed from the names, and weights
    pruned by torch.nn.utils.prune are multiplied by their masks. Raises InputError if the file holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read weights {path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors (a whole pickled model?), which would have to run code: save "
            "network.state_dict() instead"
        ) from error
    except Exception as error:  # a damaged archive can raise almost anything
        raise InputError(f"{path}: not a readable torch file: {error}") from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dict: expected tensors by name, or under {' or '.join(_NESTED)}")
    return _pruned({str(name).replace("_orig_mod.", "").removeprefix("module."): t for name, t in content.items()})


def _pruned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with each pair `X_orig`, `X_mask` of torch.nn.utils.prune replaced by its product, `X`."""
    split = {name[:-5] for name in state if name.endswith("_orig") and f"{name[:-5]}_mask" in state}
    kept = {name: t for name, t in state.items() if name.rpartition("_")[0] not in split}
    return kept | {name: state[f"{name}_orig"] * state[f"{name}_mask"] for name in split}


def build_arch(arch: str, shape: tuple[int, ...], classes: int | None, timesteps: int) -> nn.Module:
    """Return one of the project's networks for images of `shape` `[C, H, W]`.

    Raises InputError if the images are not square, or the number of classes is not known.
    """
    if classes is None or len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"--arch needs a --dataset of square images, which says how many classes there are: got {shape}"
        )
    return build(ModelConfig(arch, shape[0], shape[1], classes, timesteps))


def load_state(network: nn.Module, state: Mapping[str, Tensor], where: object, *, by_order: bool = False) -> None:
    """Load `state` into `network`; `where` names its origin in messages.

    With `by_order`, tensors are matched by their order if the names differ but all shapes are the same: Kim et al.'s
    code has other names for the layers of the same networks. Raises InputError, which lists every name and shape that
    does not fit.
    """
    own = network.state_dict()
    same_shapes = [t.shape for t in own.values()] == [t.shape for t in state.values()]
    if by_order and own.keys() != state.keys() and same_shapes:
        state = dict(zip(own, state.values(), strict=True))
    problems = [f"{name}: missing" for name in own if name not in state]
    problems += [f"{name}: not in the network" for name in state if name not in own]
    problems += [
        f"{name}: shape {list(tensor.shape)}, the network has {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    problems += [
        f"{name}: {tensor.dtype}, {tensor.layout}, on {tensor.device}: expected a dense tensor of real numbers"
        for name, tensor in state.items()
        if tensor.is_complex() or tensor.is_quantized or tensor.is_meta or tensor.layout is not torch.strided
    ]
    if problems:
        raise InputError("\n  ".join([f"the weights in {where} do not fit the network:", *problems]))
    network.load_state_dict(dict(state))


def read_masks(path: Path, network: nn.Module) -> Masks:
    """Return masks by parameter name, without running pickled code.

    The file is a torch file with tensors by name, or a pickled list, as Kim et al.'s scripts write it: one array for
    every parameter whose name contains "weight", in order. Entries that are None or of batch norm are left out. Raises
    InputError if the file cannot be read, or the number of masks is not that of the weights.
    """
    if path.suffix not in (".pkl", ".pickle"):
        return dict(read_state(path))
    try:
        masks = unpickle_arrays(path)
    except DataError as error:
        raise InputError(f"masks: {error}") from error
    names = [name for name, _ in network.named_parameters() if "weight" in name]
    if not isinstance(masks, list) or len(masks) != len(names):
        got = len(masks) if isinstance(masks, list) else type(masks).__name__
        raise InputError(f"{path}: expected a list of {len(names)} masks, one per weight of the network, got {got}")
    parameters = dict(network.named_parameters())
    return {n: m for n, m in zip(names, masks, strict=True) if m is not None and parameters[n].dim() > 1}
