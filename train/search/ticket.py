"""The ticket file: a pruned network, its masks and how it was found (docs/formats.md).

One `torch.save` of plain containers and tensors, read with `weights_only=True`: no pickled code runs. Of a pruned
weight only the survivors are stored. A file whose name ends in .xz is compressed by LZMA on top.
"""

import hashlib
import json
import lzma
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import spiketicket
from spiketicket.data import Normalisation
from spiketicket.errors import InputError, TicketError
from spiketicket.files import write_atomic
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, prunable
from spiketicket.train.pruning.masks import Mask, Masks, mask_bytes, pack_mask, survivors, unpack_mask

FORMAT = "spiketicket.ticket"
VERSION = 2  # version 1 had the whole tensors of pruned weights in its state, and no survivors
LARGEST = 2**30  # bytes of a file, decompressed
_FIELDS = ("format", "version", "model", "state", "masks", "search", "environment")
_XZ = b"\xfd7zXZ\x00"
_NARROW = (torch.bfloat16, torch.float16)  # types that survivors are stored in where that loses nothing
_SEARCH_FIELDS: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "recipe": str,
    "round": int,
    "rounds": int,
    "epochs": int,
    "rewind_epoch": int,
    "seed": int,
    "seconds": float,
    "test_accuracy": (float, type(None)),
    "dataset": str,
    "classes": list,
    "normalisation": dict,
}


@dataclass(frozen=True)
class Ticket:
    """A pruned network: its configuration, all of its tensors, and which weights survive."""

    model: ModelConfig
    state: dict[str, Tensor]
    masks: Masks
    search: dict[str, Any]
    environment: dict[str, str]

    def network(self) -> nn.Module:
        """Return the network in evaluation mode."""
        network = build(self.model)
        network.load_state_dict(self.state)
        return network.eval()

    @property
    def normalisation(self) -> Normalisation:
        values = self.search["normalisation"]
        return Normalisation(values["scale"], tuple(values["mean"]), tuple(values["std"]))

    @property
    def sparsity_prunable(self) -> float:
        """Share of zeros among the prunable weights."""
        return 1 - survivors(self.masks) / sum(mask.size for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Share of zeros among all parameters: the paper's p."""
        names = {name for name, _ in build_meta(self.model).named_parameters()}
        total = sum(self.state[name].numel() for name in names)
        return (sum(mask.size for mask in self.masks.values()) - survivors(self.masks)) / total

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of network, tensors and masks; equal tickets have equal ones, however long the search took."""
        digest = hashlib.sha256(json.dumps(self.model.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.state.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            # Negative zeros, which masks leave where they multiply, are not stored: plus zero makes them positive.
            digest.update((tensor.cpu().contiguous() + 0).numpy().tobytes())
        digest.update(mask_bytes(self.masks))
        return digest.hexdigest()


def build_meta(config: ModelConfig) -> nn.Module:
    """Return the network without memory for its tensors: names and shapes only."""
    with torch.device("meta"):
        return build(config)


def environment() -> dict[str, str]:
    """Return versions and machine, for the ticket: what the search ran on."""
    return {
        "spiketicket": spiketicket.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def save_ticket(path: Path, ticket: Ticket) -> None:
    """Write `ticket`, compressed if `path` ends in .xz; `path` never holds half of it.

    Raises TicketError if a pruned weight is not zero.
    """
    _check_zeros(ticket.state, ticket.masks)
    content = to_bytes(
        {
            "format": FORMAT,
            "version": VERSION,
            "model": ticket.model.to_dict(),
            "state": {name: tensor for name, tensor in ticket.state.items() if name not in ticket.masks},
            "survivors": {name: _survivors(ticket.state[name], mask) for name, mask in ticket.masks.items()},
            "masks": {name: torch.from_numpy(pack_mask(mask)) for name, mask in ticket.masks.items()},
            "search": ticket.search,
            "environment": ticket.environment,
        }
    )
    write_atomic(path, lzma.compress(content, preset=9) if path.suffix == ".xz" else content)


def load_ticket(path: Path) -> Ticket:
    """Read and check a ticket. Raises TicketError, which names the file and what is wrong with it."""
    try:
        content = read_plain(path, "ticket", FORMAT, (1, VERSION), _FIELDS)
        config = ModelConfig.from_dict(content["model"])
        meta = build_meta(config)
        masks = _check_masks(content["masks"], meta)
        state = content["state"] if content["version"] == 1 else _restore(content, masks)
        state = _check_state(state, meta)
        _check_zeros(state, masks)
        return Ticket(config, state, masks, _check_search(content["search"], config), _check_environment(content))
    except (TicketError, InputError) as error:
        raise TicketError(f"{path}: {error}") from error
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise TicketError(f"{path}: a field is damaged: {_first_line(error)}") from error


def _survivors(weight: Tensor, mask: Mask) -> Tensor:
    """Return the surviving values in C order, in the narrowest type that holds them exactly."""
    values = weight.detach().cpu()[torch.from_numpy(mask)]
    for dtype in _NARROW:
        narrow = values.to(dtype)
        if torch.equal(narrow.to(values.dtype), values):
            return narrow
    return values


def _restore(content: dict[str, Any], masks: Masks) -> dict[str, Tensor]:
    """Return the whole state: pruned weights as tensors with zeros."""
    state, survivors_of = content["state"], content.get("survivors")
    if not isinstance(state, dict) or not isinstance(survivors_of, dict) or set(survivors_of) != set(masks):
        raise TicketError(f"survivors must name exactly the prunable weights: {', '.join(masks)}")
    whole = dict(state)
    for name, mask in masks.items():
        values, expected = survivors_of[name], int(np.count_nonzero(mask))
        known = isinstance(values, Tensor) and _is_plain(values) and values.dtype in (torch.float32, *_NARROW)
        if not known or values.shape != (expected,):
            raise TicketError(f"survivors {name}: expected {expected} numbers of float32, float16 or bfloat16")
        whole[name] = torch.zeros(mask.shape, dtype=torch.float32)
        whole[name][torch.from_numpy(mask)] = values.float()
    return whole


def to_bytes(content: Mapping[str, object]) -> bytes:
    """Return what `torch.save` writes."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read_plain(
    path: Path, what: str, format_name: str, versions: tuple[int, ...], fields: tuple[str, ...]
) -> dict[str, Any]:
    """Return the dictionary in a file that `to_bytes` made: plain containers and tensors only.

    Raises TicketError if the file cannot be read, has another format or version, or lacks one of `fields`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TicketError(f"cannot read {what}: {error.strerror or error}") from error
    if data.startswith(_XZ):
        data = _decompressed(data, what)
    try:
        content = torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file can raise almost anything
        raise TicketError(f"not a {what}: cut short, foreign, or holding code") from error
    if not isinstance(content, dict) or content.get("format") != format_name:
        raise TicketError(f"not a {what}: expected the format {format_name!r}")
    if type(content.get("version")) is not int or content["version"] not in versions:
        known = " and ".join(map(str, versions))
        raise TicketError(f"{what} version {content.get('version')!r}, this release reads {known}")
    missing = [name for name in fields if name not in content]
    if missing:
        raise TicketError(f"field {missing[0]!r} is missing")
    return content


def _decompressed(data: bytes, what: str) -> bytes:
    reader = lzma.LZMADecompressor(memlimit=LARGEST)
    try:
        content = reader.decompress(data, max_length=LARGEST)
    except lzma.LZMAError as error:
        raise TicketError(f"not a {what}: its compression is damaged") from error
    if not reader.eof:
        raise TicketError(f"not a {what}: it is cut short, or larger than {LARGEST // 2**20} MiB")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_state(state: object, meta: nn.Module) -> dict[str, Tensor]:
    expected = meta.state_dict()
    if not isinstance(state, dict) or set(state) != set(expected):
        got = set(state) if isinstance(state, dict) else set()
        odd = sorted(map(str, got ^ set(expected)))
        raise TicketError(f"state does not fit the network: {odd[0] if odd else 'not a dictionary'}")
    for name, like in expected.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.shape != like.shape or tensor.dtype != like.dtype:
            came = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TicketError(f"state {name}: expected {like.dtype} {list(like.shape)}, got {came}")
        if not _is_plain(tensor):
            raise TicketError(f"state {name} must be a plain dense tensor")
        if not torch.isfinite(tensor).all():
            raise TicketError(f"state {name} holds NaN or infinity")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise TicketError(f"state {name} holds a negative variance")
    return {name: tensor.detach() for name, tensor in state.items()}


def _check_masks(packed: object, meta: nn.Module) -> Masks:
    shapes = {name: tuple(weight.shape) for name, weight in prunable(meta).items()}
    if not isinstance(packed, dict) or set(packed) != set(shapes):
        raise TicketError(f"masks must name exactly the prunable weights: {', '.join(shapes)}")
    masks = {}
    for name, shape in shapes.items():
        bits = packed[name]
        if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or not _is_plain(bits):
            got = bits.dtype if isinstance(bits, Tensor) else type(bits).__name__
            raise TicketError(f"mask {name} must be a plain tensor of uint8, got {got}")
        try:
            masks[name] = unpack_mask(bits.numpy(), shape)
        except InputError as error:
            raise TicketError(f"mask {name}: {error}") from error
    return masks


def _check_zeros(state: Mapping[str, Tensor], masks: Masks) -> None:
    for name, mask in masks.items():
        if np.any(state[name].cpu().numpy()[~mask]):
            raise TicketError(f"weight {name} is not zero where its mask prunes it")


def _check_search(search: object, config: ModelConfig) -> dict[str, Any]:
    if not isinstance(search, dict):
        raise TicketError("search must be a dictionary")
    for name, kind in _SEARCH_FIELDS.items():
        if not isinstance(search.get(name), kind):
            raise TicketError(f"search {name!r} is missing or no {getattr(kind, '__name__', 'number')}")
    if not 0 <= (search["test_accuracy"] or 0.0) <= 1 or not 0 <= search["seconds"] < float("inf"):
        raise TicketError("search test_accuracy must lie in 0..1 and seconds be finite")
    if min(search[name] for name in ("round", "rounds", "epochs", "rewind_epoch", "seed")) < 0:
        raise TicketError("search rounds, epochs and seed must not be negative")
    norm = search["normalisation"]
    channels = config.in_channels
    for key, length in (("mean", channels), ("std", channels)):
        values = norm.get(key)
        if not isinstance(values, list | tuple) or len(values) != length or not all(_is_real(v) for v in values):
            raise TicketError(f"normalisation {key} must be {length} numbers")
    if not _is_real(norm.get("scale")) or norm["scale"] <= 0 or min(norm["std"]) <= 0:
        raise TicketError("normalisation scale and std must be above 0")
    if len(search["classes"]) != config.num_classes or not all(
        isinstance(c, str) and c.isprintable() for c in search["classes"]
    ):
        raise TicketError(f"classes must be {config.num_classes} names")
    return search


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _is_real(value: object) -> bool:
    """Tell whether a value is a number that float32 can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38


def _check_environment(content: dict[str, Any]) -> dict[str, str]:
    values = content["environment"]
    if not isinstance(values, dict) or not all(isinstance(x, str) for pair in values.items() for x in pair):
        raise TicketError("environment must map names to texts")
    return values
