"""What all commands share: help without optional packages, one error line, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spiketicket.cli import console as cli
from spiketicket.cli.search.command import app

COMMANDS = {
    "snn-search": "spiketicket.cli.search.command",
    "snn-export": "spiketicket.cli.export.command",
    "snn-run": "spiketicket.cli.run",
    "snn-profile": "spiketicket.cli.profile.command",
}
OPTIONAL = ("torch", "spikingjelly", "sklearn", "onnxruntime", "jinja2", "matplotlib", "tensorboard")


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
    done = run("spiketicket.cli.search.command", method, "-h")
    assert done.returncode == 0 and "--rewind-epoch" in done.stdout


def test_missing_packages_are_named():
    done = run("spiketicket.cli.export.command", "--ticket", "none.pt")
    assert done.returncode == 1
    assert "needs torch: pip install 'spiketicket[train]'" in done.stderr.replace("\n", " ")


def test_digits_without_scikit_learn(tmp_path):
    done = run("spiketicket.cli.run", "model.onnx", "--dataset", "digits")
    assert done.returncode == 1 and "cannot read model model.onnx" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imp", "--rounds", "3"], "unknown arch 'lenet': expected one of vgg_digits, vgg16, resnet19"),
        (["imp", "--rounds", "3", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["imp"], "rounds, sparsity: expected exactly one of the two"),
        (["imp", "--rounds", "3", "--sparsity", "90"], "rounds, sparsity: expected exactly one of the two"),
        (["imp", "--sparsity", "0.9"], "did you mean 90?"),
        (["imp", "--rounds", "3", "--epochs", "5"], "rewind_epoch: expected from 0 to epochs (5), got 20"),
        (["imp", "--rounds", "3", "--lr", "-1"], "lr: expected above 0, got -1"),
    ],
)
def test_mistakes_of_a_search(tmp_path, arguments, message):
    folder = tmp_path / "run"
    base = ["--arch", "lenet", "--out", str(folder)]
    base += [] if "--dataset" in arguments else ["--dataset", "digits"]
    done = CliRunner().invoke(app, [*arguments, *base])
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ") and isinstance(done.exception, SystemExit)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("spiketicket.cli.run", ["m.onnx", "--batch", "0"], "batch: expected 1 or more, got 0"),
        ("spiketicket.cli.run", ["m.onnx", "--timesteps", "abc"], "Invalid value for '--timesteps'"),
        ("spiketicket.cli.run", ["--json"], "Missing argument"),
        ("spiketicket.cli.run", ["m.onnx", "--colour"], "No such option"),
        ("spiketicket.cli.export.command", ["--json"], "give one of --ticket, --module, --arch and --nir, got none"),
        ("spiketicket.cli.search.command", ["genetic"], "No such command 'genetic'"),
        ("spiketicket.cli.profile.command", ["m.onnx", "--duration", "long"], "Invalid value for '--duration'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_1(module, arguments, message):
    done = run(module, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", COMMANDS.values(), ids=list(COMMANDS))
def test_a_command_without_arguments_shows_its_help(module):
    assert "Usage:" in run(module).stdout


def test_output_that_cannot_be_printed():
    asset = Path(__file__).parent / "assets" / "digits.onnx"
    code = (
        "import sys; sys.argv = ['x', sys.argv[1], '--dataset', 'digits', '--json']\n"
        "import spiketicket.cli.run as m; m.main()"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code, str(asset)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr.split("Exception ignored")[0]


def test_ctrl_c_is_not_lost_where_python_ignores_exceptions():
    program = """
import signal, time
from spiketicket.cli import console as cli

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

app = cli.make_app("")

@app.command()
@cli.guarded
def wait(seconds: int):
    Interrupted()
    time.sleep(seconds)

cli.run_app(app)
"""
    done = subprocess.run([sys.executable, "-c", program, "20"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (cli.EXIT_INTERRUPTED, "error: interrupted\n")
