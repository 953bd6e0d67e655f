"""Searches: masks shrink, rewinding rewinds, an interrupted search ends in the same ticket."""

import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from spiketicket.errors import SpikeTicketError
from spiketicket.train.search import search


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
        search(settings, dataset, folder, stop)


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
    early = search(quick_settings("random", rewind_epoch=2), digits, tmp_path / "a")[0]
    search(quick_settings(rewind_epoch=2, rounds=2), digits, tmp_path / "b")
    rewound = torch.load(tmp_path / "b" / "rewind.pt", weights_only=True)["state"]
    assert all(torch.equal(rewound[name], tensor) for name, tensor in early.state.items())


def test_training_learns(quick_settings, digits, tmp_path):
    (ticket,) = search(quick_settings("random", rewind_epoch=0, epochs=5, rounds=2), digits, tmp_path / "run")
    assert ticket.search["test_accuracy"] > 0.8


def test_random_ticket_has_the_same_count_and_another_mask(quick_run, quick_settings, digits, tmp_path):
    winner = quick_run[1][-1]
    chance = search(quick_settings("random"), digits, tmp_path / "run")[-1]
    count = lambda ticket: sum(int(mask.sum()) for mask in ticket.masks.values())  # noqa: E731
    assert count(chance) == count(winner)
    assert any(not np.array_equal(chance.masks[name], mask) for name, mask in winner.masks.items())


def test_oneshot_of_initial_weights(quick_settings, digits, tmp_path):
    settings = quick_settings("oneshot", rounds=None, sparsity=60.0, epochs=0, rewind_epoch=0)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.sparsity == pytest.approx(0.6, abs=1e-3)
    assert ticket.search["test_accuracy"] is None, "an untrained network is not tested"
    from spiketicket.train.models import lif_spikes

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
    again = search(quick_settings(), digits, folder, calls.append)
    assert calls == [] and equal_tickets(again[-1], tickets[-1])


def test_log_has_one_line_per_epoch(quick_run):
    lines = [json.loads(line) for line in (quick_run[0] / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["epoch"]) for line in lines] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_killed_at_ten_moments_ends_in_the_same_ticket(quick_run, quick_arguments, tmp_path):
    """SIGKILL at ten random moments of the work, then once to the end: the same tickets, bit for bit."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "spiketicket.train.cli", "imp", *quick_arguments, "--out", str(folder)]
    moments = random.Random(0)
    kills = unfinished = clashes = 0
    while kills < 10:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_it_works(process, folder)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # finished before the kill came: check it, and start another search
            assert_same_run(folder, *quick_run)
            shutil.rmtree(folder)
        elif process.returncode == -signal.SIGKILL:
            kills += 1
            unfinished += not (folder / "ticket.pt").exists()
        else:  # it met this test's own look at the lock
            clashes += 1
            assert clashes <= 3, f"snn-search ended with {process.returncode}"
    assert unfinished >= 7, "the kills must hit the search at work"
    subprocess.run(command, check=True, capture_output=True)
    assert_same_run(folder, *quick_run)


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
    from spiketicket.train.ticket import load_ticket

    for index, ticket in enumerate(tickets):
        assert equal_tickets(load_ticket(folder / "rounds" / f"{index:02d}.pt"), ticket)
    assert equal_tickets(load_ticket(folder / "ticket.pt"), tickets[-1])
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    assert not list(folder.glob("**/.*.partial"))


def test_interrupt_says_so_and_leaves_a_usable_state(quick_settings, quick_run, digits, tmp_path):
    stopped_after(4, quick_settings(), digits, tmp_path / "run")
    assert equal_tickets(search(quick_settings(), digits, tmp_path / "run")[-1], quick_run[1][-1])


def test_ctrl_c_ends_with_one_line(quick_arguments, tmp_path):
    command = [sys.executable, "-m", "spiketicket.train.cli", "imp", *quick_arguments, "--epochs", "500"]
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
    settings = quick_settings("random", rewind_epoch=0, epochs=1, arch="resnet19", batch_size=131, width=0.05)
    assert len(search(settings, digits, tmp_path / "run")) == 1


def test_folder_that_cannot_be_written(quick_settings, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpikeTicketError, match="cannot write the run folder .*file/run"):
        search(quick_settings(), digits, tmp_path / "file" / "run")


def test_two_searches_cannot_share_a_folder(quick_settings, digits, tmp_path):
    from spiketicket.train.run import open_run

    with (
        open_run(tmp_path / "run", quick_settings(), 2),
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
    content["state"].popitem()
    torch.save(content, path)
    with pytest.raises(SpikeTicketError, match="checkpoint.pt: it does not fit the network; delete the folder"):
        search(quick_settings(), digits, tmp_path / "run")


def test_loss_that_is_no_number_stops_with_a_message(quick_settings, digits, tmp_path):
    with pytest.raises(SpikeTicketError, match="the loss is no longer a number: lower --lr"):
        search(quick_settings(lr=1e30), digits, tmp_path / "run")
