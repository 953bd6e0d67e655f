"""What an iteration costs, in parts; the commands around it."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spiketicket.cli.console import make_app
from spiketicket.cli.profile.search import search, tickets
from spiketicket.data import DATASET_NAMES, load_dataset
from spiketicket.errors import InputError, MissingExtraError
from spiketicket.profiling.measure.machine import usable_cores
from spiketicket.profiling.measure.noise import Watch
from spiketicket.profiling.measure.timing import Timing
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.cost import Cost, SearchCost, check_threads, measure_search
from spiketicket.profiling.search.noise_images import FORMATS, iterations_per_epoch, noise_dataset
from spiketicket.profiling.search.report import SearchProfileSettings, search_report
from spiketicket.profiling.search.setup import PARTS, IterationSetup
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from tests.support.profiles import check_schema

app = make_app("search and tickets")
app.command()(search)
app.command()(tickets)
TINY = IterationSetup("vgg_digits", 2, 4, "digits", width=0.5)


@pytest.fixture
def run():
    def call(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, " ".join(done.stderr.split())

    return call


@pytest.fixture(scope="module")
def measured():
    longer = IterationSetup("vgg_digits", 4, 4, "digits", width=0.5)
    return measure_search([TINY, longer], device="cpu", threads=1, iterations=3, memory=[TINY])


def test_parts_make_up_the_whole(measured):
    for cost in measured.costs.values():
        assert set(cost.parts) == set(PARTS) and cost.whole.n == 3
        assert all(min(part.seconds) > 0 for part in cost.parts.values())
        # No run of an iteration has time outside of its parts; both are of the same runs.
        assert cost.sum_of_parts.min <= max(cost.whole.seconds)
        assert cost.sum_of_parts.quantile(1) >= cost.whole.min * 0.9


def test_epoch_is_all_training_images(measured):
    cost = measured.costs[TINY]
    assert cost.iterations_per_epoch == 361 == Batches(load_dataset("digits")).count(4)
    assert cost.seconds_per_epoch == pytest.approx(361 * cost.seconds)
    assert iterations_per_epoch(50_000, 128) == paper.EPOCH
    assert iterations_per_epoch(129, 128) == 1  # a single image is left out
    assert iterations_per_epoch(130, 128) == 2


def test_peak_holds_the_weights_at_least(measured):
    cost = measured.costs[TINY]
    assert cost.peak is not None and cost.peak > 3 * 4 * cost.parameters  # weight, gradient and momentum
    assert [c.peak for c in measured.costs.values()][1] is None


def test_an_iteration_is_that_of_a_search():
    """The marked state ends in the same weights as a search's own, bit for bit."""
    from spiketicket.profiling.search.iteration import LR, Iteration, model_config
    from spiketicket.train.networks.models import build
    from spiketicket.train.pruning.masks import dense_masks
    from spiketicket.train.search.settings import SearchSettings

    group, batches = Group(), Batches(noise_dataset("digits"))
    iteration = Iteration(TINY, batches, group)
    iteration.in_parts()
    iteration.whole()

    torch.manual_seed(0)
    model = build(model_config(TINY))
    settings = SearchSettings(
        "imp", "vgg_digits", "digits", timesteps=2, rounds=2, epochs=1, rewind_epoch=0, batch_size=4, width=0.5, lr=LR
    )
    state = TrainingState(model, dense_masks(model), settings, group)
    for (images, labels), _ in zip(batches.epoch(4, np.random.SeedSequence(0)), range(2), strict=False):
        state.step(images, labels, EpochMean.empty(group.device), 1.0)
    for name, weight in state.weights().items():
        assert torch.equal(weight, iteration.state.weights()[name]), name
    assert [len(seconds) for seconds in iteration.parts.values()] == [1] * len(PARTS)


def test_every_part_is_timed_as_itself(monkeypatch):
    """By a clock that a batch moves by 1, a forward pass by 10, a backward pass by 100 and the optimiser by 1000."""
    from spiketicket.profiling.search import iteration as training_iteration

    iteration = training_iteration.Iteration(TINY, Batches(noise_dataset("digits")), Group())
    now = [0.0]

    def moves(owner, name, seconds):
        function = getattr(owner, name)

        def moved(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, moved)

    def batches(those=iteration.batches):
        for batch in those:
            now[0] += 1
            yield batch

    iteration.batches = batches()
    moves(iteration.state.model, "forward", 10)
    moves(torch.Tensor, "backward", 100)
    moves(iteration.state.optimiser, "step", 1000)
    monkeypatch.setattr(training_iteration, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    iteration.in_parts()
    assert iteration.parts == {"data": [1], "forward": [10], "backward": [100], "optimiser": [1000]}


def test_stand_ins_are_like_the_data_sets(cifar_folder):
    assert set(FORMATS) == set(DATASET_NAMES)
    for name, real in (("digits", load_dataset("digits")), ("cifar10", load_dataset("cifar10", cifar_folder))):
        noise = noise_dataset(name)
        assert noise.image_shape == real.image_shape and noise.augmentation == real.augmentation
        assert len(noise.classes) == len(real.classes)
    assert FORMATS["digits"].images == len(load_dataset("digits").train.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "lenet"], "unknown arch 'lenet': expected one of vgg_digits, vgg16"),
        (["--arch", "vgg16,vgg16"], "arch: expected one or more, each once"),
        (["--timesteps", "0,1"], "timesteps: expected numbers from 1, got 0"),
        (["--timesteps", "3,2"], "timesteps: expected rising numbers, got 3,2"),
        (["--batch", "1"], "batch: expected 2 or more (batch norm needs two), got 1"),
        (["--threads", "1000"], f"threads: expected 1 to {usable_cores()}, as many as there are cores here, got 1000"),
        (["--precision", "int8"], "precision: expected one of float32, bfloat16, float16, got int8"),
        (["--dataset", "digits"], "dataset: expected one of cifar10"),
        (["--iterations", "2", "--duration", "1"], "iterations, duration: expected one of the two, got both"),
        (["--device", "tpu"], "device: expected auto, cpu or cuda, got tpu"),
        (["--run", "/nowhere"], "/nowhere is no run folder of snn-search: it does not exist"),
        (["-x", "report.docx"], "cannot write a report as report.docx: expected an ending of"),
    ],
)
def test_mistakes(run, options, message):
    code, _, error = run("search", *options)
    assert code == 1 and message in error


def test_threads_without_a_word_are_all_cores():
    assert check_threads(None) == usable_cores()
    with pytest.raises(InputError, match="threads: expected 1 to"):
        check_threads(0)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"snn-profile search needs torch: pip install 'spiketicket\[train\]'"):
        measure_search([TINY])


def test_commands_import_without_optional_packages():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'spikingjelly', 'onnxruntime', 'jinja2')));"
        "import spiketicket.cli.profile.search"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def made(seconds, arch="vgg16", dataset="cifar10", prunable=14_715_584, parameters=14_728_266, batch=128):
    """A measurement as if an epoch took that many seconds by T."""
    costs = {}
    for t, epoch in seconds.items():
        setup = IterationSetup(arch, t, batch, dataset)
        each = epoch / iterations_per_epoch(FORMATS[dataset].images, batch)
        parts = {name: Timing(((each / 4,),) * 6) for name in PARTS}
        costs[setup] = Cost(setup, Timing(((each,),) * 6), parts, 10**6 * t, prunable, parameters)
    with Watch() as watch:
        pass
    return SearchCost(costs, "cpu", 1, watch.noise(0.0))


def test_report_with_the_papers_seconds_shows_the_papers_figures():
    seconds = paper.SECONDS_PER_EPOCH["vgg16"]
    report = search_report(SearchProfileSettings(("vgg16",), tuple(seconds), 128, "cifar10", "float32"), made(seconds))
    sections = {section.key: section for section in report.sections}
    assert list(sections) == ["iteration", "epoch", "memory", "hours", "gain"]
    for row in sections["epoch"].table.rows:
        assert row[2] == pytest.approx(row[4]) and row[3] == 391 and row[5] == pytest.approx(row[6])
    assert any("per epoch of CIFAR (391 iterations)" in note for note in sections["epoch"].notes)
    for key in ("hours", "gain"):
        basis = [column.name for column in sections[key].table.columns].index("basis")
        assert {row[basis] for row in sections[key].table.rows} == {"projected"}
    assert all(row[6] is not None for row in sections["gain"].table.rows)  # what the paper prints
    data = json.loads(json.dumps(report.data, allow_nan=False))
    assert (data["format"], data["version"], data["kind"]) == ("spiketicket.profile", 1, "search")
    check_schema(data)
    assert len(data["projections"]) == 16 and {p["basis"] for p in data["projections"]} == {"projected"}
    inputs = data["projections"][-1]["inputs"]
    assert inputs["early_timesteps"] == 3 and inputs["seconds_per_epoch"]["5"] == pytest.approx(44.49)
    assert "paper's Table 3" in inputs["early_bird_stop"]["source"]


def test_without_early_timesteps_nothing_is_projected():
    report = search_report(SearchProfileSettings(("vgg16",), (4, 5), 128, "cifar10", "float32"), made({4: 1.0, 5: 2.0}))
    assert [section.key for section in report.sections] == ["iteration", "epoch", "memory", "hours"]
    assert report.sections[-1].says.startswith("Hours were not projected: they take seconds at T = 3 and a larger one")


def test_command_writes_a_report(run, tmp_path):
    path = tmp_path / "report.json"
    code, out, error = run(
        "search",
        "--arch",
        "vgg_digits",
        "--timesteps",
        "1",
        "--batch",
        "2",
        "--iterations",
        "1",
        "--device",
        "cpu",
        "--threads",
        "1",
        "-x",
        path,
    )
    assert code == 0, error
    assert "Seconds per iteration" in out and "Fewer than six iterations give no 95% interval" in " ".join(out.split())
    assert json.loads(path.read_text())["iterations"][0]["arch"] == "vgg_digits"
