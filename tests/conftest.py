"""Fixtures that several folders share. Torch is imported only where a fixture needs it."""

import json
import os
import pickle

import numpy as np
import pytest

# One OpenMP thread per worker of pytest-xdist (which inherits the variable from the process that starts it), else two:
# more threads than cores would wait for each other. Set before torch is imported, and for processes that tests start,
# since results of training depend on the number.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Plans of the native engine are measured anew and leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


QUICK = {
    "arch": "vgg_digits",
    "dataset": "digits",
    "rounds": 3,
    "epochs": 3,
    "rewind_epoch": 1,
    "prune_rate": 0.5,
    "batch_size": 128,
    "width": 0.5,
    "seed": 3,
}


@pytest.fixture(scope="session")
def quick_settings():
    from spiketicket.train.search.settings import SearchSettings

    return lambda method="imp", **options: SearchSettings(**{"method": method, **QUICK, **options})


@pytest.fixture(scope="session")
def digits():
    from spiketicket.data import load_dataset

    return load_dataset("digits")


@pytest.fixture(scope="session")
def quick_run(quick_settings, digits, tmp_path_factory):
    """A finished small search: its folder and the tickets of its three rounds."""
    from spiketicket.train.search.search import search

    folder = tmp_path_factory.mktemp("runs") / "quick"
    return folder, search(quick_settings(), digits, folder)


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory):
    """A data folder with a small CIFAR-10 of smooth random images, in the official layout."""
    root = tmp_path_factory.mktemp("data")
    base = root / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        coarse = rng.uniform(0, 255, (20, 3, 8, 8)).astype(np.uint8)
        pixels = np.kron(coarse, np.ones((1, 1, 4, 4), np.uint8)).reshape(20, 3072)
        batch = {"data": pixels, "labels": rng.integers(0, 10, 20).tolist()}
        (base / name).write_bytes(pickle.dumps(batch, protocol=2))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}, protocol=2))
    return root


@pytest.fixture
def quick_arguments():
    """The settings of `quick_settings` as options of snn-search."""
    return [
        text for name, value in QUICK.items() for text in (f"--{name.replace('_', '-')}", json.dumps(value).strip('"'))
    ]
