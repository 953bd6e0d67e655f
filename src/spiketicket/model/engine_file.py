"""The file of a TensorRT engine (docs/formats.md): what it was built for, the model it was built from, the engine."""

import hashlib
import json
from dataclasses import asdict, dataclass
from struct import Struct

from spiketicket.errors import ModelError

MAGIC = b"spiketrt"
VERSION = 1
_START = Struct("<8sI")  # magic, bytes of the JSON


@dataclass(frozen=True)
class Build:
    """What a TensorRT engine was built for. It does not run on anything else."""

    timesteps: int
    batch: tuple[int, int, int]  # images of a run: the fewest, the number that it is fastest for, the most
    half: bool  # weighted sums in float16
    two_of_four: tuple[str, ...]  # layers whose weights TensorRT may run as 2:4 sparse
    tensorrt: str  # version
    gpu: str


@dataclass(frozen=True)
class EngineFile:
    build: Build
    model: bytes  # an ONNX model of spiketicket: shapes, layers, metadata
    engine: bytes  # as TensorRT serialises it


def pack(file: EngineFile) -> bytes:
    """Return the bytes of an engine file."""
    header = {
        "version": VERSION,
        **asdict(file.build),
        "model_nbytes": len(file.model),
        "engine_nbytes": len(file.engine),
        "sha256": _digest(file.model, file.engine),
    }
    text = json.dumps(header).encode()
    return _START.pack(MAGIC, len(text)) + text + file.model + file.engine


def unpack(data: bytes) -> EngineFile:
    """Read what `pack` makes. Raises ModelError for anything else, and for a part of it."""
    if not data.startswith(MAGIC):
        raise ModelError("not a TensorRT engine file: snn-export --format tensorrt makes one")
    if len(data) < _START.size:
        raise ModelError("the TensorRT engine file is cut short")
    _, length = _START.unpack_from(data)
    body = _START.size + length
    if len(data) < body:
        raise ModelError("the TensorRT engine file is cut short")
    build, sizes, digest = _read_header(data[_START.size : body])
    if len(data) != body + sum(sizes):
        raise ModelError(f"the TensorRT engine file has {len(data):,} bytes, expected {body + sum(sizes):,}")
    if _digest(data[body:]) != digest:
        raise ModelError("the TensorRT engine file is damaged: its contents do not have the digest that it states")
    return EngineFile(build, data[body : body + sizes[0]], data[body + sizes[0] :])


def _read_header(text: bytes) -> tuple[Build, tuple[int, int], str]:
    try:
        header = json.loads(text)
        if header["version"] != VERSION:
            raise ModelError(f"TensorRT engine file of version {header['version']}, this release reads {VERSION}")
        fewest, best, most = map(int, header["batch"])
        build = Build(
            int(header["timesteps"]),
            (fewest, best, most),
            bool(header["half"]),
            tuple(map(str, header["two_of_four"])),
            str(header["tensorrt"]),
            str(header["gpu"]),
        )
        return build, (int(header["model_nbytes"]), int(header["engine_nbytes"])), str(header["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ModelError(f"the header of the TensorRT engine file is damaged: {error!r}") from error


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
