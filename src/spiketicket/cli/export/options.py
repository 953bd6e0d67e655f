"""The options of `snn-export`. Showing them needs neither torch nor the exporter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spiketicket.cli.options import option
from spiketicket.errors import InputError
from spiketicket.export.check.agreement import Tolerance
from spiketicket.export.formats.settings import FORMATS, ExportFormat
from spiketicket.export.nir.dialects import DIALECTS, NIR_DT
from spiketicket.model.values import VALUES


@dataclass(frozen=True)
class Source:
    """What is exported: one of `ticket`, `module`, `arch` and `nir`, with the options that go with it."""

    PANEL: ClassVar[str] = "What to export"

    ticket: Path | None = option("A ticket.pt of snn-search, or its run folder.")
    module: str | None = option("A torch module: package.file:factory, a function without arguments or a module.")
    arch: str | None = option("One of spiketicket's networks, with --weights of Kim et al.'s code or of spiketicket.")
    weights: Path | None = option("State dict for --module or --arch; no code in it runs.")
    masks: Path | None = option(
        "Masks: a torch file by parameter name, or Kim et al.'s mask_*.pkl.", show_default="zero weights are pruned"
    )
    nir: Path | None = option("A NIR graph (docs/nir.md).")
    dialect: str = option(f"The simulator whose neurons a NIR graph has: {', '.join(DIALECTS)}.", default=DIALECTS[0])
    dt: float = option("Seconds per timestep of a NIR graph.", default=NIR_DT)
    imports: list[str] | None = option("Python module that registers more networks; repeatable.", "--import")

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("ticket", "module", "arch", "nir") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"give one of --ticket, --module, --arch and --nir, got {' and '.join(given) or 'none'}")
        if (self.weights or self.masks) and (self.ticket or self.nir):
            raise InputError(f"--weights and --masks belong to --module and --arch, not to {given[0]}")
        if self.dialect not in DIALECTS:
            raise InputError(f"--dialect: expected one of {', '.join(DIALECTS)}, got {self.dialect!r}")
        if self.arch and not self.weights:
            raise InputError("--arch needs --weights: an untrained network is of no use")

    @property
    def beside(self) -> Path:
        """Return the path that the file is named after if --output is not given."""
        own = self.ticket or self.nir or self.weights
        return own if own is not None else Path(f"{str(self.module).partition(':')[0].rpartition('.')[2]}.pt")


@dataclass(frozen=True)
class Inputs:
    """The source of samples."""

    PANEL: ClassVar[str] = "What to check it on"

    dataset: str | None = option("Test images of a data set (docs/data.md).", show_default="the ticket's")
    data: Path | None = option("Folder of the data sets' files.", show_default="data")
    samples: Path | None = option(
        "A .npy file of samples instead: float32 [N, ...], normalised; with --timed, [T, N, ...]."
    )
    timed: bool = option("The network gets another input at every timestep.", "--timed", default=False)


@dataclass(frozen=True)
class File:
    """What is written, and to which file."""

    PANEL: ClassVar[str] = "The file"

    timesteps: str = option(
        "T: a number, which the file fixes; dynamic, with the ticket's T as default; dynamic:T, with T as default.",
        default="dynamic",
    )
    output: Path | None = option("File to write.", "--output", "-o", show_default="beside what is read")
    format: str = option(f"File format: {', '.join(FORMATS)}.", default=ExportFormat.format)
    values: str = option(f"Type of the stored weights: {', '.join(VALUES)}.", default=ExportFormat.values)
    dense: bool = option("Plain standard ONNX, without spiketicket's operators.", "--dense", default=ExportFormat.dense)
    mode: str = option(
        "multi-step, or step: one timestep per call, with the potentials as inputs and outputs.", default="multi-step"
    )
    batch: str = option("Batch size N: a number, or dynamic.", default="dynamic")
    opset: int = option("Version of the standard operators, 18 to 24.", default=ExportFormat.opset)

    def __post_init__(self) -> None:
        if self.mode not in ("multi-step", "step"):
            raise InputError(f"--mode: expected multi-step or step, got {self.mode!r}")
        steps, fixed = self.steps
        if self.format == "nir" and fixed:
            raise InputError(f"--timesteps: a NIR graph does not fix T: use --timesteps dynamic:{steps}")

    @property
    def steps(self) -> tuple[int | None, bool]:
        """Return T, or None if it is not given, and whether the file fixes it: `4`, `dynamic` or `dynamic:4`.

        Raises InputError.
        """
        word, _, number = self.timesteps.partition(":")
        fixed = word != "dynamic"
        digits = word if fixed else number
        steps = _whole(digits)
        if (digits and steps is None) or (fixed and (number or not word)):
            raise InputError(f"--timesteps: expected a number from 1, dynamic or dynamic:T, got {self.timesteps!r}")
        return steps, fixed

    def format_settings(self, dt: float) -> dict[str, Any]:
        """Return the fields of the ExportFormat. Raises InputError if the batch is not a number or `dynamic`."""
        size = None if self.batch == "dynamic" else _whole(self.batch)
        if self.batch != "dynamic" and size is None:
            raise InputError(f"--batch: expected a number from 1, or dynamic, got {self.batch!r}")
        return {
            "format": self.format,
            "values": self.values,
            "dense": self.dense,
            "step": self.mode == "step",
            "fixed_timesteps": self.steps[1],
            "batch": size,
            "opset": self.opset,
            "dt": dt,
        }


@dataclass(frozen=True)
class Verification:
    """How closely outputs must agree."""

    PANEL: ClassVar[str] = "The check"

    check: bool = option(
        "Run the network and every engine on the samples, against a float64 oracle; no file is written unless they "
        "agree. It also shows what int16 weights would change.",
        "--check/--no-check",
        default=True,
    )
    atol: float = option("Absolute tolerance of a logit; --rtol is added.", default=Tolerance.atol)
    rtol: float = option("Relative tolerance: a share of the largest logit of the sample.", default=Tolerance.rtol)


def _whole(digits: str) -> int | None:
    """Return a number of at least 1, or None if `digits` is none or is too long to be meant."""
    return int(digits) if digits.isdecimal() and len(digits) < 100 and int(digits) > 0 else None
