"""Searches: masks shrink, rewinding rewinds, an interrupted search ends in the same ticket."""

import copy
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spiketicket.cli.search.command import app
from spiketicket.data import load_dataset
from spiketicket.errors import OutOfTimeError, SpikeTicketError
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from spiketicket.train.networks.models import build, logits
from spiketicket.train.pruning.masks import dense_masks, survivors
from spiketicket.train.search import search as search_module
from spiketicket.train.search import training as training_module
from spiketicket.train.search.search import RunOptions, model_config, search
from spiketicket.train.search.ticket import load_ticket
from tests.support.tiers import beyond_the_first


def equal_tickets(a, b):
    return a.fingerprint == b.fingerprint and all(torch.equal(a.state[k], b.state[k]) for k in a.state)


def stopped_after(epochs, settings, dataset, folder):
    """A search that something stops after that many epochs."""

    class Enough(Exception):
        pass

    def stop(progress):
        if progress.done == epochs:
            raise Enough

    with pytest.raises(Enough):
        search(settings, dataset, folder, RunOptions(report=stop))


def log_of(folder):
    """The lines of a run's log without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


def test_masks_shrink_by_the_prune_rate(quick_run):
    tickets = quick_run[1]
    total = sum(mask.size for mask in tickets[0].masks.values())
    for index, ticket in enumerate(tickets):
        assert sum(mask.sum() for mask in ticket.masks.values()) == round(total * 0.5**index)
        for name, mask in ticket.masks.items():
            assert not ticket.state[name].numpy()[~mask].any(), "pruned weights are zero"
            assert index == 0 or not (mask & ~tickets[index - 1].masks[name]).any()


def test_pruning_takes_the_smallest_trained_weights(quick_run):
    dense, first = quick_run[1][:2]
    kept = np.concatenate([dense.state[n].numpy()[m] for n, m in first.masks.items()])
    cut = np.concatenate([dense.state[n].numpy()[~m] for n, m in first.masks.items()])
    assert abs(cut).max() <= abs(kept).min()


def test_later_rounds_start_from_the_rewind_point(quick_settings, digits, tmp_path):
    """With no epoch left after the rewind point, a ticket is the rewound network under its mask."""
    tickets = search(quick_settings(epochs=2, rewind_epoch=2), digits, tmp_path / "run")
    rewound = torch.load(tmp_path / "run" / "rewind.pt", weights_only=True)["state"]
    for ticket in tickets[1:]:
        for name, tensor in ticket.state.items():
            mask = torch.from_numpy(ticket.masks[name]) if name in ticket.masks else 1
            assert torch.equal(tensor, rewound[name] * mask), name


def test_rewind_point_is_the_dense_network_after_that_epoch(quick_settings, digits, tmp_path):
    early = search(quick_settings("random", rewind_epoch=2, validation=0), digits, tmp_path / "a")[0]
    search(quick_settings(rewind_epoch=2, rounds=2, validation=0), digits, tmp_path / "b")
    rewound = torch.load(tmp_path / "b" / "rewind.pt", weights_only=True)["state"]
    assert all(torch.equal(rewound[name], tensor) for name, tensor in early.state.items())


def test_training_learns(quick_settings, digits, tmp_path):
    (ticket,) = search(quick_settings("random", rewind_epoch=0, epochs=5, rounds=2), digits, tmp_path / "run")
    assert ticket.search["test_accuracy"] > 0.8


def test_random_ticket_has_the_same_count_and_another_mask(quick_run, quick_settings, digits, tmp_path):
    winner = quick_run[1][-1]
    chance = search(quick_settings("random"), digits, tmp_path / "run")[-1]
    assert survivors(chance.masks) == survivors(winner.masks)
    assert any(not np.array_equal(chance.masks[name], mask) for name, mask in winner.masks.items())


def test_oneshot_of_initial_weights(quick_settings, digits, tmp_path):
    settings = quick_settings("oneshot", rounds=None, sparsity=60.0, epochs=0, rewind_epoch=0)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.sparsity == pytest.approx(0.6, abs=1e-3)
    assert ticket.search["test_accuracy"] is None, "an untrained network is not tested"
    from spiketicket.train.networks.models import lif_spikes

    rates = {
        n: float(s.float().mean())
        for n, s in lif_spikes(ticket.network(), torch.from_numpy(digits.inputs("test"))).items()
    }
    assert all(0.02 < rate < 0.4 for rate in rates.values()), rates


def test_seed_decides(quick_settings, digits, quick_run, tmp_path):
    again = search(quick_settings(), digits, tmp_path / "again")
    other = search(quick_settings(seed=4), digits, tmp_path / "other")
    assert equal_tickets(again[-1], quick_run[1][-1])
    assert not equal_tickets(other[-1], quick_run[1][-1])


def test_running_again_trains_nothing(quick_run, quick_settings, digits):
    folder, tickets = quick_run
    calls = []
    again = search(quick_settings(), digits, folder, RunOptions(report=calls.append))
    assert calls == [] and equal_tickets(again[-1], tickets[-1])


def test_progress_within_an_epoch(quick_settings, digits, tmp_path, monkeypatch):
    """After every batch here, once a second elsewhere; an epoch's end only when it is on disk."""
    monkeypatch.setattr(training_module, "REPORTED", -1.0)
    calls = []

    def report(progress):
        calls.append(progress.done)
        if progress.done == 1:
            assert [line["event"] for line in log_of(tmp_path / "run")] == ["plan", "epoch"]

    settings = quick_settings("random", rewind_epoch=0, epochs=2, rounds=2, validation=0)
    search(settings, digits, tmp_path / "run", RunOptions(report=report))
    batches = Batches(digits).count(settings.batch_size)
    assert calls == pytest.approx([n / batches for n in range(1, 2 * batches + 1)])


def test_log_tells_what_happened(quick_run):
    folder, tickets = quick_run
    lines = log_of(folder)
    assert lines[0]["event"] == "plan" and [s["epochs"] for s in lines[0]["stages"]] == [3, 2, 2]
    assert [s["sparsity"] for s in lines[0]["stages"]] == pytest.approx([t.sparsity for t in tickets])
    epochs = [(line["round"], line["epoch"]) for line in lines if line["event"] == "epoch"]
    assert epochs == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert [line["fingerprint"] for line in lines if line["event"] == "ticket"] == [t.fingerprint for t in tickets]
    rates = [line["lr"] for line in lines if line["event"] == "epoch" and line["round"] == 0]
    assert rates == pytest.approx([0.3, 0.225, 0.075]), "a cosine from lr to 0"


@pytest.mark.kill
def test_killed_at_ten_moments_ends_in_the_same_ticket(quick_run, quick_arguments, tmp_path):
    """SIGKILL at ten random moments of the work, then once to the end: the same tickets, bit for bit."""
    killed_again_and_again(["imp", *quick_arguments], tmp_path / "killed", *quick_run, kills=10)


@pytest.mark.kill
def test_killed_early_bird_ends_in_the_same_ticket(quick_settings, digits, tmp_path):
    """With what imp's checkpoints have not: the masks seen so far, Early-Time's choice, a final training."""
    options = {"sparsity": 50.0, "early_time": True, "et_threshold": 0.9, "epochs": 6, "eb_threshold": 0.2}
    whole = search(quick_settings("eb", rounds=None, **options), digits, tmp_path / "whole")
    common = ["--arch", "vgg_digits", "--dataset", "digits", "--batch-size", "128", "--width", "0.5", "--seed", "3"]
    own = ["--sparsity", "50", "--early-time", "--et-threshold", "0.9", "--epochs", "6", "--eb-threshold", "0.2"]
    killed_again_and_again(["eb", *common, *own], tmp_path / "killed", tmp_path / "whole", whole, kills=5)


def killed_again_and_again(arguments, folder, expected, tickets, kills):
    command = [sys.executable, "-m", "spiketicket.cli.search.command", *arguments, "--out", str(folder)]
    moments = random.Random(0)
    done = unfinished = clashes = 0
    while done < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_it_works(process, folder)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # finished before the kill came: check it, and start another search
            assert_same_run(folder, expected, tickets)
            shutil.rmtree(folder)
        elif process.returncode == -signal.SIGKILL:
            done += 1
            unfinished += not (folder / "ticket.pt").exists()
        else:  # it met this test's own look at the lock
            clashes += 1
            assert clashes <= 3, f"snn-search ended with {process.returncode}"
    assert unfinished >= 0.7 * kills, "the kills must hit the search at work"
    subprocess.run(command, check=True, capture_output=True)
    assert_same_run(folder, expected, tickets)


def wait_until_it_works(process, folder):
    """Until the process holds the run folder's lock: importing torch takes longer than the search."""
    while process.poll() is None:
        if (folder / ".lock").exists():
            with (folder / ".lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return
        time.sleep(0.005)


def assert_same_run(folder, expected, tickets):
    for ticket in tickets:
        place = "final" if ticket.search["kind"] == "final" else "rounds"
        assert equal_tickets(load_ticket(folder / place / f"{ticket.search['round']:02d}.pt"), ticket)
    assert equal_tickets(load_ticket(folder / "ticket.pt"), tickets[-1])
    assert log_of(folder) == log_of(expected)
    assert not list(folder.glob("**/.*.partial"))


def test_interrupt_says_so_and_leaves_a_usable_state(quick_settings, quick_run, digits, tmp_path):
    stopped_after(4, quick_settings(), digits, tmp_path / "run")
    assert equal_tickets(search(quick_settings(), digits, tmp_path / "run")[-1], quick_run[1][-1])


def test_ctrl_c_ends_with_one_line(quick_arguments, tmp_path):
    command = [sys.executable, "-m", "spiketicket.cli.search.command", "imp", *quick_arguments, "--epochs", "500"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True)
    wait_until_it_works(process, tmp_path / "run")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # Python itself chooses the second inside some imports
    assert "error: interrupted" in errors and "Traceback" not in errors


def test_another_search_in_the_folder_is_refused(quick_run, quick_settings, digits):
    with pytest.raises(SpikeTicketError, match="holds another search: its seed is 3, this one's 9"):
        search(quick_settings(seed=9), digits, quick_run[0])


def test_foreign_folder_is_refused(quick_settings, digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SpikeTicketError, match=r"holds other files \(thesis.tex"):
        search(quick_settings(), digits, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_only_leftovers_of_the_run_are_removed(quick_settings, digits, tmp_path):
    folder = tmp_path / "run"
    search(quick_settings("random", rewind_epoch=0, epochs=1), digits, folder)
    mine, yours = folder / ".checkpoint.pt.x7.partial", folder / ".movie.partial"
    mine.write_text("half")
    yours.write_text("half")
    search(quick_settings("random", rewind_epoch=0, epochs=1), digits, folder)
    assert not mine.exists() and yours.exists()


def test_resuming_keeps_the_number_of_threads(quick_settings, digits, tmp_path):
    """Sums depend on it: another number now must not change the bits of a run that began with one."""
    settings = quick_settings("random", rewind_epoch=0, epochs=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        search(settings, digits, tmp_path / "run")
        torch.set_num_threads(2)
        search(settings, digits, tmp_path / "run")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_last_batch_of_one_image_is_left_out(quick_settings, digits, tmp_path):
    """1,442 images in batches of 131 leave one, of which batch norm has no statistics."""
    settings = quick_settings(
        "random", rewind_epoch=0, epochs=1, arch="resnet19", batch_size=131, width=0.05, validation=0
    )
    assert len(search(settings, digits, tmp_path / "run")) == 1


def test_folder_that_cannot_be_written(quick_settings, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpikeTicketError, match="cannot write the run folder .*file/run"):
        search(quick_settings(), digits, tmp_path / "file" / "run")


def test_two_searches_cannot_share_a_folder(quick_settings, digits, tmp_path):
    from spiketicket.train.loop.distributed import Group
    from spiketicket.train.search.run import open_run

    with (
        open_run(tmp_path / "run", quick_settings(), 2, {"data": digits.fingerprint()}, Group()),
        pytest.raises(SpikeTicketError, match="in use by another search"),
    ):
        search(quick_settings(), digits, tmp_path / "run")


def test_damaged_checkpoint_is_named(quick_settings, digits, tmp_path):
    stopped_after(1, quick_settings(), digits, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SpikeTicketError, match="checkpoint.pt: not a checkpoint: cut short"):
        search(quick_settings(), digits, tmp_path / "run")


def test_checkpoint_of_another_network_is_named(quick_settings, digits, tmp_path):
    stopped_after(1, quick_settings(), digits, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["training"]["network"].popitem()
    torch.save(content, path)
    with pytest.raises(SpikeTicketError, match="checkpoint.pt: it does not fit the network; delete the folder"):
        search(quick_settings(), digits, tmp_path / "run")


@pytest.mark.parametrize("lr", [1e20, 1e30])  # the first spoils batch norm's statistics alone
def test_loss_that_is_no_number_stops_with_a_message(lr, quick_settings, digits, tmp_path):
    with pytest.raises(SpikeTicketError, match="the loss is no longer a number: lower --lr"):
        search(quick_settings(lr=lr), digits, tmp_path / "run")


def test_other_images_are_refused(quick_run, quick_settings, digits):
    fewer = replace(digits, train=digits.train.take(np.arange(len(digits.train.labels)) < 500))
    with pytest.raises(SpikeTicketError, match="holds another search: its data is"):
        search(quick_settings(), fewer, quick_run[0])


def test_a_damaged_last_ticket_is_written_anew(quick_run, quick_settings, digits, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(quick_run[0], folder)
    (folder / "ticket.pt").write_bytes(b"nothing")
    search(quick_settings(), digits, folder)
    assert equal_tickets(load_ticket(folder / "ticket.pt"), quick_run[1][-1])


def test_validation_chooses_the_epoch(quick_settings, digits, tmp_path):
    """The ticket is the epoch that the held-out images like best, the later of equals; test images have no say."""
    (ticket,) = search(quick_settings("random", rewind_epoch=0, epochs=4, rounds=2), digits, tmp_path / "run")
    epochs = [line for line in log_of(tmp_path / "run") if line["event"] == "epoch"]
    found = [line["validation_accuracy"] for line in epochs]
    assert ticket.search["validation_accuracy"] == max(found)
    _, held_out = digits.hold_out(0.1, 3)
    x = torch.from_numpy(digits.normalisation(held_out.images))
    with torch.no_grad():
        classes = logits(ticket.network(), x).mean(0).argmax(1).numpy()
    assert (classes == held_out.labels).mean() == max(found), "its weights are those of that epoch"


def test_without_validation_the_last_epoch_counts(quick_settings, digits, tmp_path):
    settings = quick_settings("random", rewind_epoch=0, epochs=2, rounds=2, validation=0)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.search["validation_accuracy"] is None
    last = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["training"]["network"]
    assert all(torch.equal(ticket.state[name], tensor) for name, tensor in last.items())


class TestWithinAnEpoch:
    """Checkpoints by the clock, a time budget, and going on from there."""

    def test_a_budget_stops_and_the_same_command_goes_on(self, quick_run, quick_settings, digits, tmp_path):
        stops = 0
        while True:
            try:
                # no time at all: it stops after its first batch, every time
                tickets = search(quick_settings(), digits, tmp_path / "run", RunOptions(max_minutes=1e-9))
                break
            except OutOfTimeError as error:
                assert "the same command goes on" in str(error)
                stops += 1
            assert stops < 200
        assert stops > 50, "within epochs, not only between them"
        assert equal_tickets(tickets[-1], quick_run[1][-1])
        assert log_of(tmp_path / "run") == log_of(quick_run[0])

    def test_the_command_ends_with_75(self, quick_arguments, tmp_path):
        command = [
            sys.executable,
            "-m",
            "spiketicket.cli.search.command",
            "imp",
            *quick_arguments,
            "--max-minutes",
            "0.001",
        ]
        done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True)
        assert done.returncode == 75, done.stderr
        assert "out of time after 0.001 min; the same command goes on where this one stopped" in done.stdout
        assert (tmp_path / "run" / "checkpoint.pt").exists()


class TestEarlyTime:
    """The search runs with the timesteps that the divergence allows; reported tickets train at full T."""

    @pytest.fixture(scope="class")
    @staticmethod
    def early(quick_settings, digits, tmp_path_factory):
        folder = tmp_path_factory.mktemp("early") / "run"
        settings = quick_settings(early_time=True, finals=(1,), epochs=4, et_threshold=0.9)
        return settings, folder, search(settings, digits, folder)

    def test_timesteps(self, early):
        _, folder, _ = early
        lines = log_of(folder)
        (choice,) = [line for line in lines if line["event"] == "early_time"]
        assert 2 <= choice["chosen"] < 5, choice
        assert choice["normalised"][choice["chosen"] - 1] < 0.9
        assert all(choice["normalised"][t - 1] >= 0.9 for t in range(2, choice["chosen"])), "the smallest"
        for line in lines:
            if line["event"] == "epoch":
                full = line["kind"] == "final" or (line["round"] == 0 and line["epoch"] < 2)
                assert line["timesteps"] == (5 if full else choice["chosen"]), line
        plans = [line["stages"] for line in lines if line["event"] == "plan"]
        assert [s["timesteps"] for s in plans[-1]] == [
            5 if s["kind"] == "final" else choice["chosen"] for s in plans[-1]
        ]

    def test_tickets(self, early):
        tickets = early[2]
        assert [(t.search["round"], t.search["kind"]) for t in tickets] == [
            (0, "search"),
            (1, "search"),
            (1, "final"),
            (2, "final"),
        ]
        _, search_one, final_one, final_two = tickets
        assert final_one.model.timesteps == final_two.model.timesteps == 5 > search_one.model.timesteps
        for name, mask in final_one.masks.items():
            assert np.array_equal(mask, search_one.masks[name]), "the same ticket, trained at another T"
        assert final_two.search["search_seconds"] == pytest.approx(
            tickets[0].search["seconds"] + search_one.search["seconds"]
        )
        assert search_one.search["search_seconds"] == tickets[0].search["seconds"] > 0

    def test_the_choice_is_that_of_the_network_after_two_epochs(self, early, digits, quick_settings, tmp_path):
        settings, folder, _ = early
        stopped_after(2, settings, digits, tmp_path / "run")  # before the choice
        search(settings, digits, tmp_path / "run")
        assert log_of(tmp_path / "run") == log_of(folder)

    def test_no_early_time_no_shorter_training(self, quick_run):
        assert {line["timesteps"] for line in log_of(quick_run[0]) if line["event"] == "epoch"} == {5}


class TestEarlyBird:
    def settings(self, quick_settings, **options):
        return quick_settings("eb", rounds=None, sparsity=50.0, rewind_epoch=0, **{"epochs": 9, **options})

    def test_stops_when_the_mask_settles_and_trains_from_init(self, quick_settings, digits, tmp_path):
        settings = self.settings(quick_settings, eb_threshold=0.2)
        search_ticket, final = search(settings, digits, tmp_path / "run")
        lines = log_of(tmp_path / "run")
        birds = [line for line in lines if line["event"] == "early_bird"]
        assert [line["stop"] for line in birds] == [False] * (len(birds) - 1) + [True]
        assert 5 <= len(birds) < 9, "the window was full, and epochs were saved"
        assert birds[-1]["hamming"] < 0.2 <= birds[-2]["hamming"] or len(birds) == 5
        assert all(0 <= line["overlap"] <= 1 for line in birds[1:]), "both measures are reported"
        rates = [line["lr"] for line in lines if line["event"] == "epoch"]
        assert rates[0] == pytest.approx(0.6) and rates[len(birds)] == pytest.approx(0.3)
        assert final.search["epochs"] == 9 and search_ticket.search["epochs"] == len(birds)
        kept = np.concatenate([search_ticket.state[n].numpy()[m] for n, m in final.masks.items()])
        cut = np.concatenate([search_ticket.state[n].numpy()[~m] for n, m in final.masks.items()])
        assert abs(cut).max() <= abs(kept).min(), "the mask is the cut of the weights where the search stopped"

    @pytest.mark.kill
    def test_killed_after_the_stop_it_stays_stopped(self, quick_settings, digits, tmp_path):
        settings = self.settings(quick_settings, eb_threshold=0.2)
        whole = search(settings, digits, tmp_path / "whole")
        epochs = whole[0].search["epochs"]
        for moment in (2, epochs):
            folder = tmp_path / f"cut{moment}"
            stopped_after(moment, settings, digits, folder)
            assert equal_tickets(search(settings, digits, folder)[-1], whole[-1])
            assert log_of(folder) == log_of(tmp_path / "whole")

    @pytest.mark.train_whole
    def test_by_overlap(self, quick_settings, digits, tmp_path):
        settings = self.settings(quick_settings, epochs=6, eb_criterion="overlap", eb_threshold=0.999)
        search_ticket, _ = search(settings, digits, tmp_path / "run")
        assert search_ticket.search["epochs"] == 6, "masks differ by more than a thousandth: it never stopped early"


def reference_gradient(model, images, labels):
    """Of the mean cross-entropy over timesteps, by the classifier's weight."""
    out = logits(model.train(), images)
    torch.stack([torch.nn.functional.cross_entropy(step, labels) for step in out]).mean().backward()
    return model.classifier.weight.grad


class TestReleasedRecipe:
    """What the authors' code does differently, in what comes out."""

    @pytest.mark.parametrize("recipe", ["paper", "released"])
    def test_what_is_rewound(self, recipe, quick_settings, digits, tmp_path, monkeypatch):
        """From the second rewinding on biases stay as trained, batch norm's statistics always."""
        starts = []

        class Watched(search_module.Training):
            def __init__(self, context, stage, index, tickets, masks, start):
                starts.append({name: tensor.clone() for name, tensor in start.items()})
                super().__init__(context, stage, index, tickets, masks, start)

        monkeypatch.setattr(search_module, "Training", Watched)
        tickets = search(quick_settings(recipe=recipe, validation=0), digits, tmp_path / "run")
        rewound = torch.load(tmp_path / "run" / "rewind.pt", weights_only=True)["state"]
        for index in (1, 2):
            trained = tickets[index - 1].state
            for name, tensor in starts[index].items():
                stays = recipe == "released" and ("running" in name or (index == 2 and name.endswith(".bias")))
                stays |= recipe == "released" and "num_batches" in name
                assert torch.equal(tensor, (trained if stays else rewound)[name]), (index, name)
                if stays and "stem.0" not in name and "num_batches" not in name:
                    assert not torch.equal(trained[name], rewound[name]), "else the test sees nothing"

    @pytest.mark.train_whole
    def test_early_time_moves_the_statistics(self, quick_settings, digits, tmp_path, monkeypatch):
        """By passes of 5, 2, 3 and 4 timesteps in training mode, 14 updates; the paper's changes nothing."""
        for recipe, updates in (("paper", 0), ("released", 14)):
            counts = []

            class Watched(training_module.Training):
                def _choose_early_time(self, epoch, counts=counts):
                    name = "features.2.num_batches_tracked"
                    counts.append(int(self.network.model.state_dict()[name]))
                    super()._choose_early_time(epoch)
                    counts.append(int(self.network.model.state_dict()[name]))

            monkeypatch.setattr(search_module, "Training", Watched)
            settings = quick_settings("oneshot", early_time=True, recipe=recipe, rewind_epoch=0)
            search(settings, digits, tmp_path / recipe)
            assert counts[1] - counts[0] == updates

    def test_the_snapshot_is_taken_an_epoch_late(self, quick_settings, digits, tmp_path):
        """With two epochs and the rewind point after one, it is the network at the end."""
        settings = quick_settings(epochs=2, rewind_epoch=1, recipe="released", validation=0)
        dense = search(settings, digits, tmp_path / "run")[0]
        rewound = torch.load(tmp_path / "run" / "rewind.pt", weights_only=True)["state"]
        assert all(torch.equal(rewound[name], tensor) for name, tensor in dense.state.items())

    @pytest.mark.parametrize(("recipe", "factor"), [("paper", 1.0), ("released", 0.6)])
    def test_the_loss_is_divided_by_the_full_t(self, recipe, factor, quick_settings, digits):
        """At three timesteps of five; and weights below 1e-6 do not move."""
        settings = quick_settings(recipe=recipe, weight_decay=0.0, lr=1.0)
        torch.manual_seed(0)
        model = build(replace(model_config(settings, digits), timesteps=3))
        weight = model.classifier.weight
        with torch.no_grad():
            weight[0, :8] = 1e-7
        images, labels = next(iter(Batches(digits).epoch(64, np.random.SeedSequence(0))))
        reference = reference_gradient(copy.deepcopy(model), images, labels)
        state = TrainingState(model, dense_masks(model), settings, Group())
        before = weight.detach().clone()
        state.step(images, labels, EpochMean.empty(torch.device("cpu")), share=1.0)
        moved = before - weight.detach()
        assert torch.allclose(moved[1:], factor * reference[1:], rtol=1e-3, atol=1e-6)
        assert bool((moved[0, :8] == 0).all()) == (recipe == "released")

    def test_momentum_is_damped_and_nothing_decays(self, quick_settings):
        for recipe, decay, dampening in (("paper", 5e-4, 0), ("released", 0, 5e-4)):
            settings = quick_settings(recipe=recipe)
            model = build(model_config(settings, load_dataset("digits")))
            (options,) = TrainingState(model, dense_masks(model), settings, Group()).optimiser.param_groups
            assert (options["weight_decay"], options["dampening"]) == (decay, dampening)


def test_float16_skips_an_overflow_and_goes_on(quick_settings, digits):
    """Nothing of the step that the scaler skips may reach the next one. Unset memory is filled with NaN here."""
    settings = quick_settings(precision="float16")
    state = TrainingState(
        build(model_config(settings, digits)), dense_masks(build(model_config(settings, digits))), settings, Group()
    )
    batches = list(Batches(digits).epoch(64, np.random.SeedSequence(0)))[:2]
    before = state.weights()
    torch.use_deterministic_algorithms(True)
    try:
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**120})
        state.step(*batches[0], EpochMean.empty(torch.device("cpu")), share=1.0)
        assert all(torch.equal(weight, before[name]) for name, weight in state.model.named_parameters()), "skipped"
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})
        state.step(*batches[1], EpochMean.empty(torch.device("cpu")), share=1.0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert state.finite()
    assert not torch.equal(state.model.classifier.weight, before["classifier.weight"])


@pytest.mark.parametrize("strategy", beyond_the_first(pytest.mark.train_whole, ["uniform", "erk", "2:4", "balanced:4"]))
def test_every_strategy_searches(strategy, quick_settings, digits, tmp_path):
    settings = quick_settings(epochs=2, prune_rate=0.25 if strategy == "2:4" else 0.3, strategy=strategy)
    tickets = search(settings, digits, tmp_path / "run")
    counts = [sum(int(mask.sum()) for mask in ticket.masks.values()) for ticket in tickets]
    total = counts[0]
    expected = [total, round(total * 0.7), round(total * 0.49)]
    if strategy == "2:4":
        assert counts[2] == counts[1] < 0.55 * total, "2:4 leaves half at most, less than two rounds of 25% would"
        for mask in tickets[-1].masks.values():
            groups = np.pad(mask, [(0, 0), (0, -mask.shape[1] % 4)] + [(0, 0)] * (mask.ndim - 2))
            assert groups.reshape(len(mask), -1, 4, *mask.shape[2:]).sum(axis=2).max() <= 2
    else:
        assert counts == expected


def test_rounds_that_prune_nothing_are_named(quick_arguments, tmp_path):
    options = ["--epochs", "1", "--rewind-epoch", "0", "--prune-rate", "0.25", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["imp", *quick_arguments, *options, "--strategy", "2:4"])
    assert result.exit_code == 0
    assert "warning: round 2 pruned nothing: 2:4 had left fewer weights than asked" in " ".join(result.stderr.split())


ADAM = {"optimizer": "adam", "lr": 0.01, "deep_supervision": 0.1}


@pytest.mark.train_whole
@pytest.mark.parametrize(
    "options", [{"schedule": "step"}, {"clip": 1.0}, {"precision": "bfloat16"}, {"batch_norm": "folded"}, ADAM]
)
def test_every_way_of_training_learns(options, quick_settings, digits, tmp_path):
    settings = quick_settings("random", rewind_epoch=0, epochs=5, rounds=2, **options)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.search["test_accuracy"] > 0.8
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in ticket.state.values())
