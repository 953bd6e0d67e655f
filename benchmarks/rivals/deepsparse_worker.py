"""Process that runs DeepSparse for deepsparse_client.py: `deepsparse_worker.py FOLDER THREADS`.

It reads commands from stdin and writes answers to stdout. `load` reads FOLDER/images.npy, runs FOLDER/model.onnx on it
and writes FOLDER/logits.npy; `run` runs it once more.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Carry out commands until stdin is closed."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    engine: Any = None
    images = None
    for command in sys.stdin:
        try:
            if command.strip() == "load":
                images = np.load(folder / "images.npy")
                if engine is None:
                    from deepsparse import Engine

                    engine = Engine(model=str(folder / "model.onnx"), batch_size=len(images), num_cores=threads)
                np.save(folder / "logits.npy", engine.run([images])[0])
            else:
                engine.run([images])
            print("worker: done", flush=True)
        except Exception as error:  # reported to the client, which raises it
            print("worker:", type(error).__name__, " ".join(str(error).split()), flush=True)


if __name__ == "__main__":
    main()
