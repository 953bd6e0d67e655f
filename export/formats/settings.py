"""The settings of an exported file, and the table of file formats. Needs no package but onnx."""

from dataclasses import dataclass

from spiketicket.errors import InputError
from spiketicket.export.nir.dialects import NIR_DT, check_dt
from spiketicket.model.names import OPSET
from spiketicket.model.values import VALUES, check_values

LARGEST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class FileFormat:
    """A file format: the module of this folder that writes and runs it, its file suffix, and its types of weights."""

    module: str
    suffix: str
    values: tuple[str, ...]


FORMATS = {
    "onnx": FileFormat("onnx_file", ".onnx", VALUES),
    "tensorrt-onnx": FileFormat("tensorrt_onnx", ".tensorrt.onnx", VALUES[:2]),
    "tensorrt": FileFormat("tensorrt", ".engine", VALUES[:2]),
    "nir": FileFormat("nir_file", ".nir", VALUES[:1]),
}


@dataclass(frozen=True)
class ExportFormat:
    """The settings of an exported file. Raises InputError if a value is invalid or two do not go together.

    `format` is onnx, tensorrt-onnx (a plain graph for TensorRT's parser), tensorrt (an engine for this machine's GPU)
    or nir. `values` is the type of stored weights; with TensorRT, float16 is also the type of weighted sums.
    `fixed_timesteps` fixes T to the graph's, and `batch` fixes N. `dt` is the number of seconds per timestep of nir.

    Three settings are those of onnx only: `dense` writes plain standard ONNX without spiketicket's operators, which the
    native engine does not read; `step` writes a file of one timestep per call, with potentials as inputs and outputs;
    `opset` is the version of the standard operators.
    """

    format: str = "onnx"
    values: str = "float32"
    dense: bool = False
    step: bool = False
    fixed_timesteps: bool = False
    batch: int | None = None
    opset: int = OPSET
    dt: float = NIR_DT

    def __post_init__(self) -> None:
        check_values(self.values)
        for name in ("dense", "step", "fixed_timesteps"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        whole = isinstance(self.batch, int) and not isinstance(self.batch, bool)
        if self.batch is not None and not (whole and 1 <= self.batch <= LARGEST_BATCH):
            raise InputError(f"batch must be a whole number from 1 to {LARGEST_BATCH}, or None, got {self.batch!r}")
        check_dt(self.dt)
        if self.format not in tuple(FORMATS):  # a list has no hash
            raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.format != "onnx" and (self.dense, self.step, self.opset) != (False, False, OPSET):
            raise InputError(f"dense, step and opset are settings of format onnx, not of {self.format}")
        if self.dense and self.values != "float32":
            raise InputError(f"plain ONNX holds its weights as float32, not as {self.values}")
        if self.step and self.fixed_timesteps:
            raise InputError("a file of one timestep per call does not fix T: use --timesteps dynamic:T")
        if self.values not in FORMATS[self.format].values:
            raise InputError(
                f"{self.format} holds weights as {' or '.join(FORMATS[self.format].values)}, not as {self.values}"
            )
        if self.format == "nir" and (self.batch is not None or self.fixed_timesteps):
            raise InputError("a NIR graph has no timesteps and no batch, so that it cannot fix them")
