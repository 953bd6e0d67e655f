"""Run by `make wheel-check` in an environment that holds the base install alone.

Importing the runtime and running the committed model must work without torch, onnxruntime and
scikit-learn, and give the logits that were stored with the model.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from spiketicket.errors import MissingExtraError
from spiketicket.runtime import Session
from spiketicket.runtime.engines.cuda.kernels import source

assets = Path(__file__).parent / "assets"
for package in ("torch", "onnxruntime", "sklearn"):
    assert importlib.util.find_spec(package) is None, f"{package} is installed: this is not the base install"
stored = np.load(assets / "digits.npz")
with Session(assets / "digits.onnx") as session:
    logits = session.run({"input": stored["images"]})["logits"]
assert np.allclose(logits, stored["logits"], atol=1e-4), "the committed model gives other logits"
assert "torch" not in sys.modules
snn_run = Path(sys.executable).with_name("snn-run")
np.save("images.npy", stored["images"])
done = subprocess.run([snn_run, assets / "digits.onnx", "--input", "images.npy"], capture_output=True, text=True)
assert done.returncode == 0, done.stderr
print(done.stdout)
assert "__global__" in source(), "the wheel has no GPU kernels"
try:
    Session(assets / "digits.onnx", engine="cuda")
except MissingExtraError as error:
    print(error)
else:
    raise AssertionError("engine cuda opened without CuPy")
accuracy = (logits.argmax(axis=1) == stored["labels"]).mean()
print(f"wheel check: {len(logits)} images, {accuracy:.1%} right, without torch")
