"""`snn-search status` and `snn-search compare` on run folders written by hand."""

import csv
import fcntl
import io
import json
import os
import statistics
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spiketicket.cli import console as cli
from spiketicket.cli.search.command import app
from spiketicket.cli.search.status import bars, compact, duration
from spiketicket.errors import InputError, MissingExtraError
from spiketicket.train.history.curves import make_curves
from spiketicket.train.history.history import read_history
from tests.support.run_folders import IMP, epochs, plan, ticket, write_run


@pytest.fixture
def run(monkeypatch):
    """Calls the command line in this process: (exit code, stdout, stderr), 80 columns wide."""
    monkeypatch.setattr(cli.out, "_width", 80)

    def call(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


EARLY_TIME = {
    "event": "early_time",
    "round": 0,
    "epoch": 2,
    "raw": [1.9, 0.9, 0.3, 0.18, 0.0],
    "normalised": [2.11, 1.0, 0.333, 0.2, 0.0],
    "threshold": 0.6,
    "chosen": 3,
    "divergence": "forward",
}
AT_WORK = [
    plan((0, "search", 4, 3, 0.0), (1, "search", 3, 3, 0.25), (1, "final", 3, 5, 0.25)),
    *epochs(0, "search", 2, 5, 10.0),
    EARLY_TIME,
    *epochs(0, "search", 2, 3, 6.0, first=2, validation_accuracy=0.875),
    ticket(0, "search", 0.0, 0.9312, 32.0, validation_accuracy=None),
    *epochs(1, "search", 1, 3, 6.0, first=1),
]


def test_status_of_a_search_at_work(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(Path("digits"), AT_WORK, early_time=True, strategy="global")
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, text, errors = run("status", folder)
    assert code == 0 and not errors
    assert text.startswith("digits: imp, vgg16 on cifar10\nrunning\nround 1 (search), 1 of 3 epochs done; ")
    assert "strategy global" in text and "sparsity None" not in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["0", "search", "0.00%", "5→3", "4/4", "87.50%", "93.12%", "32 s"],
        ["1", "search", "25.00%", "3", "1/3", "-", "-", "6 s"],
        ["1", "final", "25.00%", "5", "0/3", "-", "-", "-"],
    ]
    assert "Early-Time after 2 epochs: T = 3, where the divergence is first below 0.6\n" in text
    assert "  divergence (forward), t = 1..5: █▄▂▂▁ 2.11 1 0.333 0.2 0\n" in text
    assert "an epoch takes 6 s at T = 3 (measured), 10 s at T = 5 (measured)" in text
    assert "time left: about " in text and "if it goes on" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_status_of_a_stopped_early_bird(run, tmp_path):
    bird = {"event": "early_bird", "round": 0, "overlap": 0.75, "stop": False}
    events = [plan((0, "search", 9, 5, 0.0)), *epochs(0, "search", 3, 5, 100.0)]
    events += [{**bird, "epoch": 0, "hamming": None, "overlap": None}, {**bird, "epoch": 1, "hamming": 0.08}]
    events += [{**bird, "epoch": 2, "hamming": 0.02}]
    events += [{"event": "stopped", "reason": "out of time", "round": 0, "epoch": 2}]
    code, text, _ = run("status", write_run(tmp_path / "eb", events, method="eb"))
    assert code == 0
    assert "stopped: out of time; the same command goes on\n" in text
    assert (
        "Early-Bird, round 0, after 3 epochs: goes on\n  with the masks before it: distance 0.02 at most, 75.00% of"
        in text
    )
    assert "  largest distance by epoch: █▃\n" in text
    assert "time left: at most 10 min 00 s, until " in text and "if it goes on now" in text


def test_status_of_an_early_bird_that_never_settled(run, tmp_path):
    bird = {"event": "early_bird", "round": 0, "epoch": 3, "hamming": 0.08, "overlap": 0.75, "stop": False}
    events = [plan((0, "search", 4, 5, 0.0), (1, "final", 4, 5, 0.5)), *epochs(0, "search", 4, 5, 9.0), bird]
    _, text, _ = run("status", write_run(tmp_path / "eb", [*events, ticket(0, "search", 0.0, 0.9, 0.0)], method="eb"))
    assert "Early-Bird, round 0, after 4 epochs: the mask did not settle\n" in text


def test_status_has_the_sparsity_that_was_reached(run, tmp_path):
    """2:4 prunes half at once, whatever was planned."""
    events = [plan((0, "search", 1, 5, 0.0), (1, "search", 1, 5, 0.25)), *epochs(0, "search", 1, 5, 9.0)]
    events += [ticket(0, "search", 0.0, 0.9, 0.0), *epochs(1, "search", 1, 5, 9.0), ticket(1, "search", 0.48, 0.9, 9.0)]
    folder = write_run(tmp_path / "run", events)
    assert "48.00%" in run("status", folder)[1] and "25.00%" not in run("status", folder)[1]
    assert json.loads(run("status", folder, "--json")[1])["trainings"][1]["sparsity"] == 0.48


def test_status_of_a_finished_run(run, tmp_path):
    code, text, _ = run("status", write_run(tmp_path / "imp", IMP))
    assert code == 0 and "\nfinished\nsettings: timesteps 5" in text and "time left" not in text


def test_status_as_json(run, tmp_path):
    code, text, _ = run("status", write_run(tmp_path / "imp", AT_WORK, early_time=True), "--json")
    value = json.loads(text)
    assert code == 0 and value["state"] == "interrupted" and value["settings"]["arch"] == "vgg16"
    assert [(t["round"], t["kind"], t["epochs_done"], t["epochs"]) for t in value["trainings"]] == [
        (0, "search", 4, 4),
        (1, "search", 1, 3),
        (1, "final", 0, 3),
    ]
    assert value["early_time"][0]["chosen"] == 3 and value["tickets"][0]["test_accuracy"] == 0.9312
    assert value["forecast"]["seconds_left"] == 2 * 6 + 3 * 10
    assert value["forecast"]["ends"][10] == "T" and value["forecast"]["at_most"] is False


def test_damaged_lines_are_named_on_stderr(run, tmp_path):
    code, text, errors = run("status", write_run(tmp_path / "imp", IMP, tail="{]\n"), "--json")
    assert code == 0 and json.loads(text)["state"] == "finished"
    assert errors == f"warning: {tmp_path}/imp/metrics.jsonl, line 15: not JSON\n"


def test_no_run(run, tmp_path):
    for command in ("status", "compare"):
        code, text, errors = run(command, tmp_path)
        assert code == 1 and not text and "is no run folder of snn-search: it has no settings.json" in errors


def search(folder, accuracies, times, kind="search", **settings):
    """A finished search whose tickets at 0, 50 and 75% have these test accuracies and search times."""
    found = zip((0.0, 0.5, 0.75), accuracies, times, strict=False)
    return write_run(folder, [ticket(i, kind, *values) for i, values in enumerate(found)], **settings)


@pytest.fixture
def runs(tmp_path):
    """IMP with two seeds, IMP+ET with one (final tickets beside those of the search), and random."""
    both = search(tmp_path / "et", (0.80, 0.79, 0.78), (60, 90, 120), early_time=True)
    with (both / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(ticket(2, "final", 0.75, 0.89, 120, final_seconds=50.0)) + "\n")
    return [
        search(tmp_path / "a", (0.94, 0.92, 0.90), (100, 200, 300), seed=0),
        search(tmp_path / "b", (0.92, 0.92, 0.91), (100, 200, 500), seed=1),
        both,
        search(tmp_path / "r", (None, 0.85), (0, 100), method="random", rounds=None, sparsity=50.0),
        write_run(
            tmp_path / "s",
            [plan((1, "search", 3, 5, 0.7502)), ticket(1, "search", 0.75, 0.70, 100)],
            method="random",
            rounds=None,
            sparsity=75.0,
        ),
    ]


def test_curves(runs):
    imp, et, chance = make_curves([read_history(run) for run in runs])[0]
    assert [(c.label, c.kind, len(c.folders)) for c in (imp, et, chance)] == [
        ("IMP", "search", 2),
        ("IMP+ET", "final", 1),
        ("random", "search", 2),
    ]
    assert [point.sparsity for point in imp.points] == [0.0, 0.5, 0.75]
    assert imp.points[2].mean("accuracy") == pytest.approx(0.905)
    assert imp.points[2].deviation("accuracy") == pytest.approx(statistics.stdev([0.90, 0.91]))
    assert imp.points[2].mean("search_seconds") == 400
    assert [(p.sparsity, p.mean("accuracy"), p.mean("final_seconds")) for p in et.points] == [(0.75, 0.89, 50.0)]
    assert imp.gain(et.points[0]) == pytest.approx(400 / 120)
    assert [(p.sparsity, p.mean("accuracy"), p.deviation("accuracy")) for p in chance.points] == [
        (0.5, 0.85, None),
        (0.75, 0.70, None),
    ]
    assert et.gain(chance.points[0]) is None, "nothing at that sparsity"


def test_a_search_with_one_ticket_so_far_stays_with_its_other_seeds(tmp_path):
    stages = plan((0, "search", 4, 5, 0.0), (1, "search", 3, 5, 0.5), (2, "search", 3, 5, 0.75))
    done = search(tmp_path / "a", (0.94, 0.92, 0.90), (100, 200, 300), seed=0)
    begun = write_run(tmp_path / "b", [stages, ticket(1, "search", 0.5, 0.9, 200)], seed=1)
    (curve,), _ = make_curves([read_history(done), read_history(begun)])
    assert [len(point.samples) for point in curve.points] == [1, 2, 1]


def test_gain_needs_nearly_the_same_sparsity(tmp_path):
    rounds = write_run(tmp_path / "imp", [ticket(1, "search", 0.6830, 0.9, 300)])
    asked = write_run(tmp_path / "eb", [ticket(0, "final", 0.6837, 0.9, 100)], method="eb")
    other = write_run(tmp_path / "random", [ticket(0, "final", 0.685, 0.9, 10)], method="random")
    cut = write_run(tmp_path / "cut", [ticket(0, "search", 0.6830, 0.5, 0)], method="oneshot")
    imp, eb, random, oneshot = make_curves([read_history(run) for run in (rounds, asked, other, cut)])[0]
    assert imp.gain(eb.points[0]) == 3.0
    assert imp.gain(random.points[0]) is None, "0.2 percent beside"
    assert imp.gain(oneshot.points[0]) is None, "it took no time"


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{}, {"method": "eb"}, {"method": "eb", "early_time": True}], ["IMP", "EB", "EB+ET"]),
        ([{"lr": 0.3}, {"lr": 0.1}, {"method": "eb", "lr": 0.6}], ["IMP, lr 0.3", "IMP, lr 0.1", "EB"]),
        ([{}, {"arch": "resnet19"}], ["IMP vgg16", "IMP resnet19"]),
        ([{}, {"rewind_epoch": 0, "mixed": True}], ["IMP, rewind epoch 1", "IMP, mixed, rewind epoch 0"]),
        ([{"mixed": False}, {"mixed": True}], ["IMP, no mixed", "IMP, mixed"]),
    ],
)
def test_labels_tell_methods_apart(tmp_path, settings, labels):
    folders = [search(tmp_path / str(i), (0.9, 0.8, 0.7), (1, 2, 3), **s) for i, s in enumerate(settings)]
    curves, _ = make_curves([read_history(folder) for folder in folders])
    assert [curve.label for curve in curves] == labels


def test_a_seed_counts_once(tmp_path):
    a, b = (search(tmp_path / name, (0.9, 0.8, 0.7), (1, 2, 3), seed=5) for name in "ab")
    with pytest.raises(InputError, match=r"b and .*a are the same search: .* sparsity 0.00% with seed 5"):
        make_curves([read_history(a), read_history(b)])


def test_table(run, runs):
    code, text, errors = run("compare", *runs)
    assert code == 0 and not errors
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["IMP", "0.00%", "2", "93.00% ± 1.41", "1.67 min", "1.00x", "-"],
        ["", "50.00%", "2", "92.00% ± 0.00", "3.33 min", "1.00x", "-"],
        ["", "75.00%", "2", "90.50% ± 0.71", "6.67 min", "1.00x", "-"],
        ["IMP+ET", "75.00%", "1", "89.00%", "2 min", "3.33x", "50 s"],
        ["random", "50.00%", "1", "85.00%", "1.67 min", "2.00x", "-"],
        ["", "75.00%", "1", "70.00%", "1.67 min", "4.00x", "-"],
    ]
    words = " ".join(text.split())
    assert "Test accuracy of final tickets, trained at full T (IMP+ET); of the search's own tickets (IMP; " in words
    assert "mean ± standard deviation over seeds" in words
    assert max(map(len, text.splitlines())) <= 80


def test_settings_that_differ_beside_the_method_are_named(run, tmp_path):
    """Rounds, rewind points and Early-Time belong to a method, and a label may say the rest."""
    plain = search(tmp_path / "imp", (0.9, 0.8, 0.7), (1, 2, 3), clip=None)
    others = {"method": "eb", "early_time": True, "et_threshold": 0.7, "rounds": None, "rewind_epoch": 9}
    same = search(tmp_path / "same", (0.9, 0.8, 0.7), (1, 2, 3), **others)
    assert "Not the same" not in run("compare", plain, same)[1]
    other = search(tmp_path / "other", (0.9, 0.8, 0.7), (1, 2, 3), **others, epochs=8, clip=1.0)
    words = " ".join(run("compare", plain, other)[1].split())
    assert words.endswith(
        "Not the same in all: epochs (IMP: 4; EB+ET: 8). Not the same in all: clip (IMP: none; EB+ET: 1.0)."
    )
    longer = search(tmp_path / "longer", (0.9, 0.8, 0.7), (1, 2, 3), epochs=8, clip=None)
    words = " ".join(run("compare", plain, longer)[1].split())
    assert words.endswith("divided by it.") and "the search time of IMP, epochs 4 divided" in words, "labels say it"


def test_json_and_csv(run, runs):
    code, text, _ = run("compare", *runs, "--json")
    curves = json.loads(text)
    assert code == 0 and [curve["label"] for curve in curves] == ["IMP", "IMP+ET", "random"]
    assert curves[0]["points"][2]["samples"] == [
        {"seed": 0, "accuracy": 0.90, "search_seconds": 300.0, "final_seconds": 0.0},
        {"seed": 1, "accuracy": 0.91, "search_seconds": 500.0, "final_seconds": 0.0},
    ]
    code, text, _ = run("compare", *runs, "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0 and len(rows) == 6
    assert (rows[3]["search"], rows[3]["tickets"], rows[3]["sparsity"], rows[3]["test_accuracy_deviation"]) == (
        "IMP+ET",
        "final",
        "0.75",
        "",
    )
    assert float(rows[3]["gain"]) == pytest.approx(400 / 120)
    code, _, errors = run("compare", *runs, "--csv", "--json")
    assert code == 1 and "expected one of them" in errors


def test_runs_without_a_tested_ticket(run, runs, tmp_path):
    new = write_run(tmp_path / "new", [ticket(0, "search", 0.0, None, 1.0)], seed=7)
    code, text, errors = run("compare", runs[0], new, "--csv")
    assert code == 0 and text.count("\n") == 4
    assert errors == f"warning: {new} has no ticket with a test accuracy yet and is left out\n"
    code, _, errors = run("compare", new)
    assert code == 1 and "no ticket with a test accuracy yet" in errors
    code, _, errors = run("compare", runs[0], runs[0])
    assert code == 1 and "a run is given twice" in errors


def test_plot(run, runs, tmp_path):
    picture = tmp_path / "picture.png"
    code, text, errors = run("compare", *runs, "--plot", picture, "--csv")
    assert code == 0 and text.startswith("search,method,") and errors == f"wrote {picture}\n"
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (1650, 720)
    code, _, errors = run("compare", *runs, "--plot", tmp_path / "picture.svg")
    assert code == 1 and "expected a name that ends in .png, got picture.svg" in errors


def test_what_the_plot_shows(runs, tmp_path, monkeypatch):
    """Sparsity as surviving share on a logarithmic axis, search time in its unit, error bars of several seeds."""
    from matplotlib.axes import Axes

    from spiketicket.train.history.plot import draw

    drawn, original = [], Axes.errorbar
    monkeypatch.setattr(
        Axes, "errorbar", lambda ax, x, y, **options: (drawn.append((x, y, options)), original(ax, x, y, **options))[1]
    )
    curves, _ = make_curves([read_history(run) for run in runs])
    draw(curves, tmp_path / "picture.png", "title", "caption")
    (left, accuracy, options), (right, same, with_time) = drawn[:2]
    assert left == [1.0, 0.5, 0.25] and right == pytest.approx([100 / 60, 200 / 60, 400 / 60])
    assert accuracy == same == pytest.approx([93.0, 92.0, 90.5])
    assert options["yerr"] == pytest.approx([1.4142, 0, 0.7071], abs=1e-4) and options["xerr"] is None
    assert with_time["xerr"] == pytest.approx([0, 0, statistics.stdev([300, 500]) / 60])
    assert drawn[2][2]["yerr"] is None, "a single seed"
    assert len({options["color"] for *_, options in drawn}) == len({options["marker"] for *_, options in drawn}) == 3


def test_plot_of_one_ticket_that_took_no_time(run, tmp_path):
    folder = write_run(tmp_path / "cut", [ticket(0, "search", 0.0, 0.5, 0.0)], method="oneshot")
    assert run("compare", folder, "--plot", tmp_path / "cut.png")[0] == 0


def test_plot_without_matplotlib(runs, tmp_path, monkeypatch):
    from spiketicket.train.history.plot import draw

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "matplotlib.backends.backend_agg", raising=False)
    curves, _ = make_curves([read_history(run) for run in runs])
    with pytest.raises(MissingExtraError, match=r"the picture needs matplotlib: pip install .spiketicket.report."):
        draw(curves, tmp_path / "picture.png", "title", "caption")


def test_as_a_program_in_a_pipe(runs):
    done = subprocess.run(
        [sys.executable, "-m", "spiketicket.cli.search.command", "compare", *map(str, runs)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0 and "IMP+ET" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("seconds", "words", "column"),
    [
        (0, "0 s", "0 s"),
        (59.4, "59.4 s", "59.4 s"),
        (200, "3 min 20 s", "3.33 min"),
        (3599.9, "1 h 00 min", "60 min"),
        (7500, "2 h 05 min", "2.08 h"),
        (86399, "1 d 0 h", "24 h"),
        (273_600, "3 d 4 h", "3.17 d"),
    ],
)
def test_durations(seconds, words, column):
    assert (duration(seconds), compact(seconds)) == (words, column)


def test_bars():
    assert bars([2.0, 1.0, None, 0.0]) == "█▅ ▁" and bars([0.0, 0.0]) == "▁▁" and bars([]) == ""
