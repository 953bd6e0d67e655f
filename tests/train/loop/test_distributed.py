"""Two processes search as one."""

import json
import socket
import subprocess
import sys

import pytest
import torch

from spiketicket.errors import InputError
from spiketicket.train.loop.distributed import joined_group
from spiketicket.train.pruning.masks import survivors
from spiketicket.train.search.ticket import load_ticket

SEARCH = [
    "imp",
    "--arch",
    "vgg_digits",
    "--dataset",
    "digits",
    "--rounds",
    "3",
    "--epochs",
    "2",
    "--rewind-epoch",
    "1",
    "--prune-rate",
    "0.5",
    "--batch-size",
    "66",
    "--width",
    "0.5",
    "--seed",
    "3",
    "--lr",
    "0.05",
]


# Early-Time within Early-Bird, clipped, deep supervision, bfloat16: what else the processes must agree about.
EARLY = [
    "eb",
    "--arch",
    "vgg_digits",
    "--dataset",
    "digits",
    "--sparsity",
    "60",
    "--epochs",
    "7",
    "--batch-size",
    "66",
    "--width",
    "0.5",
    "--seed",
    "3",
    "--lr",
    "0.05",
    "--early-time",
    "--et-threshold",
    "0.9",
    "--eb-threshold",
    "0.3",
    "--clip",
    "1",
    "--deep-supervision",
    "0.1",
    "--precision",
    "bfloat16",
]


def launched(processes, *command):
    """`command` by that many processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    launcher = [] if processes == 1 else torchrun
    return subprocess.run([sys.executable, *launcher, *command], capture_output=True, text=True, timeout=300)


def run(folder, *options, processes, search=SEARCH):
    return launched(processes, "-m", "spiketicket.cli.search.command", *search, "--out", str(folder), *options)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folders of the same search by one and by two processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp("runs") / f"by{processes}"
        done = run(folders[processes], processes=processes)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.distributed
def test_two_processes_find_the_tickets_of_one(searched):
    """Up to rounding, which a spiking network enlarges where a potential is near its threshold."""
    for name in ("rounds/00.pt", "rounds/01.pt", "rounds/02.pt"):
        one, two = (load_ticket(searched[n] / name) for n in (1, 2))
        assert survivors(one.masks) == survivors(two.masks)
        size = sum(mask.size for mask in one.masks.values())
        differing = sum(int((one.masks[n] != two.masks[n]).sum()) for n in one.masks)
        assert differing <= 0.03 * size, f"{differing} of {size}"
        assert one.search["test_accuracy"] == pytest.approx(two.search["test_accuracy"], abs=0.03)


@pytest.mark.distributed
def test_the_first_epoch_is_the_same_to_rounding(searched):
    """Before rounding has grown: losses of the first epoch, weights at the rewind point."""
    first = [
        next(line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in line)
        for folder in searched.values()
    ]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-3)
    assert first[0]["train_accuracy"] == pytest.approx(first[1]["train_accuracy"], abs=0.005)
    one, two = (torch.load(folder / "rewind.pt", weights_only=True)["state"] for folder in searched.values())
    for name, tensor in one.items():
        if tensor.is_floating_point():
            scale = float(tensor.abs().max())
            # A bias before batch norm has no gradient but rounding: such values are 1e-9 and differ by as much.
            assert float((tensor - two[name]).abs().mean()) <= 0.01 * scale + 1e-6, name


@pytest.mark.distributed
def test_two_processes_choose_as_one(tmp_path):
    """The timesteps and the mask that all go on with; without agreement they would hang or differ."""
    logs, tickets = [], []
    for processes in (1, 2):
        folder = tmp_path / f"by{processes}"
        done = run(folder, processes=processes, search=EARLY)
        assert done.returncode == 0, done.stderr
        logs.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
        tickets.append(load_ticket(folder / "ticket.pt"))
    one, two = ([line for line in log if line["event"] == "early_time"] for log in logs)
    assert one[0]["chosen"] == two[0]["chosen"] < 5
    assert one[0]["normalised"] == pytest.approx(two[0]["normalised"], rel=0.1, abs=0.1)
    one, two = ([line for line in log if line["event"] == "early_bird"] for log in logs)
    assert len(one) == len(two) == 5 and one[-1]["stop"] and two[-1]["stop"], "as soon as the window is full"
    assert [line["hamming"] for line in one[1:]] == pytest.approx([line["hamming"] for line in two[1:]], abs=0.03)
    assert survivors(tickets[0].masks) == survivors(tickets[1].masks)
    assert tickets[0].search["test_accuracy"] == pytest.approx(tickets[1].search["test_accuracy"], abs=0.05)


@pytest.mark.distributed
def test_only_one_of_them_speaks(searched):
    done = run(searched[2], processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last ticket:") == 1


@pytest.mark.distributed
def test_two_processes_resume(searched, tmp_path):
    stopped = run(tmp_path / "run", "--max-minutes", "0.0001", processes=2)
    assert "out of time" in stopped.stdout and stopped.returncode != 0
    done = run(tmp_path / "run", processes=2)
    assert done.returncode == 0, done.stderr
    assert load_ticket(tmp_path / "run" / "ticket.pt").fingerprint == load_ticket(searched[2] / "ticket.pt").fingerprint


@pytest.mark.distributed
def test_a_mistake_ends_all_of_them(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    done = run(tmp_path / "run", processes=2)
    assert done.returncode != 0
    assert "holds other files" in done.stderr


def test_unknown_device():
    with pytest.raises(InputError, match="device: expected auto, cpu or cuda, got tpu"), joined_group("tpu"):
        pass


def test_no_cuda():
    if torch.cuda.is_available():
        with joined_group("cuda") as group:
            assert group.device.type == "cuda"
    else:
        with pytest.raises(InputError, match="no CUDA: use cpu"), joined_group("cuda"):
            pass


@pytest.mark.distributed
def test_masks_that_differ_are_noticed(tmp_path):
    """A search one of whose processes has other masks must stop, not train on."""
    script = tmp_path / "differ.py"
    script.write_text(
        "import os, sys\n"
        "from spiketicket.train.search import search\n"
        "from spiketicket.cli.search.command import main\n"
        "alike = search._Search.prune\n"
        "def masks(self, stage):\n"
        "    found = {name: mask.copy() for name, mask in alike(self, stage).items()}\n"
        "    if stage.round == 1 and os.environ['RANK'] == '1':\n"
        "        first = found['stem.0.weight'].reshape(-1)\n"
        "        first[0] = not first[0]\n"
        "    return found\n"
        "search._Search.prune = masks\n"
        "sys.exit(main())\n"
    )
    done = launched(2, str(script), *SEARCH, "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "the processes disagree about the mask" in " ".join(done.stderr.split())
    assert [path.name for path in (tmp_path / "run" / "rounds").iterdir()] == ["00.pt"]
