"""What all commands share: help without optional packages, one error line, exit codes."""

import subprocess
import sys

import pytest

COMMANDS = {
    "snn-search": "spiketicket.train.cli",
    "snn-export": "spiketicket.export.cli",
    "snn-run": "spiketicket.runtime.cli",
    "snn-profile": "spiketicket.profiling.cli",
}
OPTIONAL = ("torch", "spikingjelly", "sklearn", "onnxruntime", "jinja2")


def run(module, *arguments, without=OPTIONAL):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({without!r})); sys.argv = ['x', *{arguments!r}]\n"
        f"import {module} as m; m.main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("module", COMMANDS.values(), ids=list(COMMANDS))
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_needs_no_optional_package(module, flag):
    done = run(module, flag)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("method", ["imp", "random", "oneshot"])
def test_help_of_methods(method):
    done = run("spiketicket.train.cli", method, "-h")
    assert done.returncode == 0 and "--rewind-epoch" in done.stdout


def test_missing_packages_are_named():
    done = run("spiketicket.export.cli", "--ticket", "none.pt")
    assert done.returncode == 1
    assert "needs torch: pip install 'spiketicket[train]'" in done.stderr.replace("\n", " ")


def test_digits_without_scikit_learn(tmp_path):
    done = run("spiketicket.runtime.cli", "model.onnx", "--dataset", "digits")
    assert done.returncode == 1 and "cannot read model model.onnx" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imp", "--rounds", "3"], "unknown arch 'lenet': expected one of vgg_digits, vgg16, resnet19"),
        (["imp", "--rounds", "3", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["imp"], "rounds and sparsity: expected exactly one of them"),
        (["imp", "--rounds", "3", "--sparsity", "90"], "rounds and sparsity: expected exactly one of them"),
        (["imp", "--sparsity", "0.9"], "did you mean 90?"),
        (["imp", "--rounds", "3", "--epochs", "5"], "rewind_epoch: expected from 0 to epochs (5), got 20"),
        (["imp", "--rounds", "3", "--lr", "-1"], "lr: expected above 0, got -1"),
    ],
)
def test_mistakes_of_a_search(tmp_path, arguments, message):
    folder = tmp_path / "run"
    base = ["--arch", "lenet", "--out", str(folder)]
    base += [] if "--dataset" in arguments else ["--dataset", "digits"]
    done = run("spiketicket.train.cli", *arguments, *base, without=())
    assert done.returncode == 1
    assert message in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
    assert not folder.exists()
