"""The trained tickets in tests/assets, which tests and benchmarks share: networks of the paper, trained on CIFAR-10.

A file is called ARCH-SPARSITY.pt.xz. docs/results/vgg16.md describes how they were trained.
"""

from pathlib import Path

from spiketicket.errors import InputError
from spiketicket.train.search.ticket import Ticket, load_ticket

FOLDER = Path(__file__).parents[2] / "tests" / "assets"
ENDING = ".pt.xz"


def trained() -> dict[tuple[str, float], Path]:
    """Return the files by architecture and sparsity (the paper's p in percent)."""
    files = sorted(FOLDER.glob(f"*{ENDING}"))
    parts = {file: file.name.removesuffix(ENDING).rpartition("-") for file in files}
    return {(arch, float(sparsity)): file for file, (arch, _, sparsity) in parts.items()}


def load_trained(arch: str, sparsity: float) -> Ticket:
    """Read a trained ticket. Raises InputError if there is none of that architecture and sparsity."""
    known = trained()
    if (arch, sparsity) not in known:
        available = ", ".join(f"{a} at {p:g}%" for a, p in known) or "none"
        raise InputError(f"tests/assets has no trained ticket of {arch} at {sparsity:g}%: expected one of {available}")
    return load_ticket(known[arch, sparsity])
