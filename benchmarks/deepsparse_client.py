"""DeepSparse in another Python (it needs 3.11 or older and its own onnx), spoken to line by line through pipes."""

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
    """A function from images to logits. Other images than those of the run before are handed over in a file first.

    Each run crosses the pipe there and back, which takes some 0.05 ms; the logits come back in a file on the first run
    of given images only.
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
    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder = process, folder
        self.images: Floats | None = None
        self.logits: Floats | None = None

    def run(self, x: Floats) -> Floats:
        if self.logits is None or x is not self.images:
            np.save(self.folder / "images.npy", x)
            self.ask("load")
            self.images, self.logits = x, np.load(self.folder / "logits.npy")
            return self.logits
        self.ask("run")
        return self.logits

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        except OSError as error:
            raise SpikeTicketError(f"the DeepSparse worker has ended: {error}") from error
        for line in self.process.stdout:  # past whatever the library prints
            if line.startswith("worker: "):
                answer = line.removeprefix("worker: ").strip()
                if answer != "done":
                    raise SpikeTicketError(f"DeepSparse: {answer}")
                return
        raise SpikeTicketError("the DeepSparse worker ended without an answer")

    def close(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
