"""DeepSparse in a process of another Python: it needs Python 3.11 or older and an onnx of its own.

Commands and answers are lines in two pipes; images and logits are files (deepsparse_worker.py).
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.errors import SpikeTicketError

Floats = NDArray[np.float32]

WORKER = Path(__file__).with_name("deepsparse_worker.py")


@contextmanager
def deepsparse(python: Path, model: bytes, threads: int) -> Iterator[Callable[[Floats], Floats]]:
    """Provide a function that runs `model` on images and returns its logits.

    Images and logits are exchanged as files only if the images differ from those of the previous run. Otherwise a run
    sends a command and waits for the answer, which takes some 0.05 ms more than the run itself.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        with subprocess.Popen(
            [str(python), str(WORKER), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            client = _Client(process, folder)
            try:
                yield client.run
            finally:
                client.close()


class _Client:
    """The process that runs DeepSparse, and the images and logits of its last run."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder = process, folder
        self.images: Floats | None = None
        self.logits: Floats | None = None

    def run(self, x: Floats) -> Floats:
        """Return the logits of images `x`."""
        if self.logits is None or x is not self.images:
            np.save(self.folder / "images.npy", x)
            self.ask("load")
            self.images, self.logits = x, np.load(self.folder / "logits.npy")
            return self.logits
        self.ask("run")
        return self.logits

    def ask(self, command: str) -> None:
        """Send a command and wait for the answer. Raises SpikeTicketError if the process fails or has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        except OSError as error:
            raise SpikeTicketError(f"the DeepSparse worker has ended: {error}") from error
        for line in self.process.stdout:  # the library may print lines of its own
            if line.startswith("worker: "):
                answer = line.removeprefix("worker: ").strip()
                if answer != "done":
                    raise SpikeTicketError(f"DeepSparse: {answer}")
                return
        raise SpikeTicketError("the DeepSparse worker ended without an answer")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
