"""`snn-search gradual`: a mask that grows within one training, in phases, from a soft start or from a ticket."""

import json
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spiketicket.cli.search.command import app
from spiketicket.data import Augmentation
from spiketicket.errors import InputError, OutOfTimeError, SpikeTicketError
from spiketicket.train.history.forecast import forecast
from spiketicket.train.history.history import read_history
from spiketicket.train.loop.batches import Batches
from spiketicket.train.networks.models import logits
from spiketicket.train.pruning import growth as growth_module
from spiketicket.train.pruning.masks import survivors
from spiketicket.train.search.search import RunOptions, Start, search
from spiketicket.train.search.ticket import load_ticket

GRADUAL = {
    "arch": "alexnet",
    "width": 0.125,
    "strategy": "erk",
    "rounds": None,
    "sparsity": 97.0,
    "epochs": 4,
    "timesteps": 3,
    "phases": "1x1@4,1x1,2x2",
    "soft_epochs": 1.0,
    "prune_epochs": "0.5-3",
    "schedule": "one-cycle",
    "lr": 0.1,
    "batch_size": 64,
    "final_phases": "2x1",
}
ROUNDS = {1: 0.6830, 2: 0.8991, 3: 0.9569, 4: 0.97}


@pytest.fixture(scope="module")
def gradual_settings(quick_settings):
    return lambda **options: quick_settings("gradual", **{**GRADUAL, **options})


@pytest.fixture(scope="module")
def gradual_run(gradual_settings, digits, tmp_path_factory):
    """A finished search: its folder, its tickets, and what it reported."""
    folder, reports = tmp_path_factory.mktemp("runs") / "gradual", []
    return folder, search(gradual_settings(), digits, folder, RunOptions(report=reports.append)), reports


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


def test_tickets_on_the_way_have_the_papers_sparsities(gradual_run):
    tickets = gradual_run[1]
    assert [(t.search["round"], t.search["kind"]) for t in tickets] == [
        (1, "search"),
        (1, "final"),
        (2, "search"),
        (2, "final"),
        (3, "search"),
        (3, "final"),
        (4, "search"),
    ]
    for ticket in tickets:
        assert ticket.sparsity == pytest.approx(ROUNDS[ticket.search["round"]], abs=2e-5)
        assert ticket.model.timesteps == 3 and ticket.model.image_size == 8
        assert 0 <= ticket.search["test_accuracy"] <= 1


@pytest.mark.train_whole
def test_cutout_can_be_chosen(quick_settings, digits, tmp_path):
    def fingerprint(name, of_the_data, chosen):
        dataset = replace(digits, augmentation=Augmentation(0, True, of_the_data))
        settings = quick_settings("imp", rounds=2, epochs=1, rewind_epoch=0, cutout=chosen)
        return search(settings, dataset, tmp_path / name)[-1].fingerprint

    without = fingerprint("without", 0, None)
    assert fingerprint("with", 4, None) != without
    assert fingerprint("none", 4, 0) == without
    assert fingerprint("chosen", 0, 4) == fingerprint("kept", 4, None)


def test_masks_only_grow(gradual_run):
    searched = [ticket for ticket in gradual_run[1] if ticket.search["kind"] == "search"]
    for before, after in pairwise(searched):
        assert all(not (mask & ~before.masks[name]).any() for name, mask in after.masks.items())
        assert any(not np.array_equal(mask, before.masks[name]) for name, mask in after.masks.items())


def test_a_final_training_keeps_the_mask_and_moves_the_weights(gradual_run):
    tickets = {(t.search["round"], t.search["kind"]): t for t in gradual_run[1]}
    for number in (1, 2, 3):
        taken, trained = tickets[number, "search"], tickets[number, "final"]
        assert all(np.array_equal(taken.masks[name], mask) for name, mask in trained.masks.items())
        assert not torch.equal(taken.state["stem.0.weight"], trained.state["stem.0.weight"])
        assert trained.search["search_seconds"] == taken.search["search_seconds"] > 0


def test_batch_norm_is_calibrated_at_full_t(gradual_run, digits):
    """The running statistics of a ticket are those of training images at its own T, within what a sample allows."""
    ticket = gradual_run[1][-1]
    network = ticket.network()
    before = {n: t.clone() for n, t in network.state_dict().items() if n.endswith("running_mean")}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    with torch.no_grad():
        for images, _ in Batches(digits).epoch(128, np.random.SeedSequence(1)):
            logits(network, images)
    after = {n: t for n, t in network.state_dict().items() if n.endswith("running_mean")}
    spread = {n: network.state_dict()[n.replace("mean", "var")].sqrt() for n in before}
    assert max(float(t.max()) for t in spread.values()) > 0.1
    worst = {n: float(((before[n] - after[n]).abs() / (spread[n] + 1e-3)).max()) for n in before}
    assert max(worst.values()) < 0.1, worst


def test_the_log_names_phases_and_milestones(gradual_run):
    lines = log_of(gradual_run[0])
    assert [(e["timesteps"], e["image_size"]) for e in lines if e["event"] == "epoch" and e["round"] == 4] == [
        (1, 4),
        (1, None),
        (2, None),
        (2, None),
    ]
    changes = [e for e in lines if e["event"] == "phase"]
    assert [(e["round"], e["epoch"], e["timesteps"]) for e in changes] == [(4, 1, 1), (4, 2, 2)]
    assert all(0 <= e["validation_accuracy"] <= 1 for e in changes)
    assert [e["round"] for e in lines if e["event"] == "ticket"] == [1, 2, 3, 4, 1, 2, 3]


def test_learning_rates_rise_and_fall_batch_by_batch(gradual_run):
    rates = [e["lr"] for e in log_of(gradual_run[0]) if e["event"] == "epoch" and e["round"] == 4]
    assert rates == pytest.approx([0.0, 0.1, 0.075, 0.025])


def test_search_time_is_until_the_mask_had_grown(gradual_run):
    searched = [ticket.search for ticket in gradual_run[1] if ticket.search["kind"] == "search"]
    times = [search["search_seconds"] for search in searched]
    assert times == sorted(times) and times[0] > 0
    assert [search["seconds"] > 0 for search in searched] == [False, False, False, True]


@pytest.mark.train_whole
@pytest.mark.parametrize("place", [1, 2, 3, 6])  # epochs after which it stops: at changes of phase, and in a final
def test_interrupted_at_an_epoch(place, gradual_run, gradual_settings, digits, tmp_path):
    class Enough(Exception):
        pass

    def stop(progress):
        if progress.done == place:
            raise Enough

    with pytest.raises(Enough):
        search(gradual_settings(), digits, tmp_path / "run", RunOptions(report=stop))
    assert_same(search(gradual_settings(), digits, tmp_path / "run"), tmp_path / "run", gradual_run)


@pytest.mark.train_whole
def test_interrupted_between_any_two_batches(gradual_run, gradual_settings, digits, tmp_path, monkeypatch):
    """A checkpoint after every batch, and an interruption after every third: in the soft start, between milestones."""
    asked = 0

    def due(self):
        nonlocal asked
        asked += 1
        return True

    def written(self):
        if asked % 3 == 0:
            raise OutOfTimeError("enough")

    monkeypatch.setattr("spiketicket.train.loop.time_limit.TimeLimit.due", due)
    monkeypatch.setattr("spiketicket.train.loop.time_limit.TimeLimit.written", written)
    found = None
    while found is None:
        with suppress(OutOfTimeError):
            found = search(gradual_settings(), digits, tmp_path / "run")
    assert asked > 100
    assert_same(found, tmp_path / "run", gradual_run, log=False)
    log = [line for line in log_of(tmp_path / "run") if line["event"] != "stopped"]
    assert log == log_of(gradual_run[0])


@pytest.mark.train_whole
def test_interrupted_with_adam_and_deep_supervision(gradual_settings, digits, tmp_path, monkeypatch):
    """Its classifiers and Adam's moments go on, also where image size and timesteps change."""
    options = {"optimizer": "adam", "lr": 0.01, "deep_supervision": 0.1, "soft_epochs": 0.0, "prune_epochs": "0-2"}
    settings = gradual_settings(**options, epochs=3, phases="1x1@4,1x1,2x1", final_phases=None)
    whole = search(settings, digits, tmp_path / "whole")
    asked = 0

    def due(self):
        nonlocal asked
        asked += 1
        return asked % 5 == 0

    def written(self):
        if asked % 5 == 0:
            raise OutOfTimeError("enough")

    monkeypatch.setattr("spiketicket.train.loop.time_limit.TimeLimit.due", due)
    monkeypatch.setattr("spiketicket.train.loop.time_limit.TimeLimit.written", written)
    found, stops = None, -1
    while found is None:
        stops += 1
        with suppress(OutOfTimeError):
            found = search(settings, digits, tmp_path / "run")
    assert stops > 5
    assert_same(found, tmp_path / "run", (tmp_path / "whole", whole), log=False)


def assert_same(found, folder, run, *, log=True):
    assert [t.fingerprint for t in found] == [t.fingerprint for t in run[1]]
    assert load_ticket(folder / "ticket.pt").fingerprint == run[1][-1].fingerprint
    if log:
        assert log_of(folder) == log_of(run[0])


def test_status_and_forecast(gradual_run, gradual_settings, digits, tmp_path):
    result = CliRunner().invoke(app, ["status", str(gradual_run[0])])
    assert result.exit_code == 0 and "finished" in result.stdout and "1→2" in result.stdout
    assert "round 4 (search), epoch 2: on to T = 2; validation" in result.stdout.replace("\n", " ")

    class Enough(Exception):
        pass

    def stop(progress):
        if progress.done == 1:
            raise Enough

    with pytest.raises(Enough):
        search(gradual_settings(), digits, tmp_path / "run", RunOptions(report=stop))
    history = read_history(tmp_path / "run")
    assert history.current.stage.round == 4 and history.state == "interrupted"
    seconds = history.epochs[0].seconds
    expected = forecast(history, 0.0)
    # Known is an epoch at T = 1 on a quarter of the pixels. One at T = 1 is left, two at T = 2, three finals at T = 2.
    assert expected.seconds_left == pytest.approx(seconds * 4 * (1 + 2 * 2 + 3 * 2))
    assert {(pace.timesteps, pace.source) for pace in expected.paces} == {(1, "scaled"), (2, "scaled")}


def test_a_dense_training_in_phases(gradual_settings, digits, tmp_path):
    """Without anything to prune it is the twin that a ticket is held against."""
    settings = gradual_settings(sparsity=0.0, final_phases=None, soft_epochs=0.0)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.sparsity == 0.0 and ticket.search["round"] == 1


def test_phases_of_other_methods(quick_settings, digits, tmp_path):
    """A random mask trains with the schedule of the ticket that it is compared with."""
    settings = quick_settings("random", rewind_epoch=0, epochs=3, phases="1x2,2x1", soft_epochs=1.0)
    (ticket,) = search(settings, digits, tmp_path / "run")
    assert ticket.model.timesteps == 5 and ticket.sparsity_prunable == pytest.approx(0.75, abs=1e-3)
    assert [line["timesteps"] for line in log_of(tmp_path / "run") if line["event"] == "epoch"] == [1, 1, 2]


def test_rounds_of_imp_stay_within_their_phases(quick_settings, digits, tmp_path):
    """A round that goes back to epoch 1 begins within the first phase."""
    settings = quick_settings(epochs=3, rewind_epoch=1, phases="1x2,2x1", rounds=2)
    search(settings, digits, tmp_path / "run")
    epochs = [line for line in log_of(tmp_path / "run") if line["event"] == "epoch"]
    assert [(e["round"], e["timesteps"]) for e in epochs] == [(0, 1), (0, 1), (0, 2), (1, 1), (1, 2)]
    plan = log_of(tmp_path / "run")[0]["stages"]
    assert [stage["phases"] for stage in plan] == ["1x2,2x1", "1x1,2x1"]


def test_n_of_m_may_leave_fewer_than_a_milestone(gradual_settings, digits, tmp_path):
    """1:8 leaves an eighth at the first pruning: the ticket at 68.30% has 87% zeros, and none is left out."""
    settings = gradual_settings(strategy="1:8", sparsity=95.0, final_phases=None)
    tickets = search(settings, digits, tmp_path / "run")
    assert len(tickets) == 3 and all(survivors(t.masks) > 0 for t in tickets)
    assert tickets[0].sparsity > 0.8


def test_from_a_ticket(quick_run, quick_settings, digits, tmp_path):
    """Its weights under its mask are what training begins with; --sparsity counts from all weights."""
    ticket = quick_run[1][1]  # half of the weights
    settings = quick_settings("oneshot", rounds=None, sparsity=80.0, epochs=0, rewind_epoch=0)
    (cut,) = search(settings, digits, tmp_path / "run", start=Start(ticket))
    assert cut.sparsity == pytest.approx(0.8, abs=1e-3)
    for name, mask in cut.masks.items():
        assert not (mask & ~ticket.masks[name]).any()
        kept = ticket.state[name].numpy()[mask]
        assert np.array_equal(cut.state[name].numpy()[mask], kept)
    assert cut.search["start"] == {"fingerprint": ticket.fingerprint, "mask_only": False}


def test_from_a_mask(quick_run, quick_settings, digits, tmp_path):
    """The weights are those that the seed gives, where the mask has any."""
    ticket = quick_run[1][1]
    settings = quick_settings("gradual", rounds=None, sparsity=100 * ticket.sparsity, epochs=1, seed=9, lr=1e-9)
    (found,) = search(settings, digits, tmp_path / "run", start=Start(ticket, mask_only=True))
    other = search(
        quick_settings("gradual", rounds=None, sparsity=0.0, epochs=1, seed=9, lr=1e-9), digits, tmp_path / "d"
    )
    for name, mask in found.masks.items():
        assert np.array_equal(mask, ticket.masks[name])
        assert np.allclose(found.state[name].numpy()[mask], other[0].state[name].numpy()[mask], atol=1e-6)


def test_rounds_from_a_ticket_prune_its_survivors(quick_run, quick_settings, digits, tmp_path):
    ticket = quick_run[1][1]
    tickets = search(quick_settings(rounds=2), digits, tmp_path / "run", start=Start(ticket))
    alive = survivors(ticket.masks)
    assert [survivors(t.masks) for t in tickets] == [alive, round(alive / 2)]


def test_what_a_start_must_be(quick_run, quick_settings, digits, tmp_path):
    ticket = quick_run[1][1]
    with pytest.raises(InputError, match=r"expected a network with width 1.0, its width is 0.5"):
        search(quick_settings(width=1.0), digits, tmp_path / "a", start=Start(ticket))
    with pytest.raises(InputError, match=r"sparsity 10.0%: expected more than the 48.43% that the start has"):
        search(quick_settings(rounds=None, sparsity=10.0), digits, tmp_path / "a", start=Start(ticket))
    assert not (tmp_path / "a").exists()
    search(quick_settings("oneshot", epochs=0, rewind_epoch=0), digits, tmp_path / "b", start=Start(ticket))
    with pytest.raises(SpikeTicketError, match="holds another search: its start is"):
        other = Start(ticket, mask_only=True)
        search(quick_settings("oneshot", epochs=0, rewind_epoch=0), digits, tmp_path / "b", start=other)


def test_a_lost_ticket_on_the_way_is_named(gradual_run, gradual_settings, digits, tmp_path):
    import shutil

    shutil.copytree(gradual_run[0], tmp_path / "run")
    for name in ("rounds/02.pt", "final/02.pt"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(SpikeTicketError, match=r"rounds/02.pt: it is missing"):
        search(gradual_settings(), digits, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": "1x3"}, "epochs: expected 3, the sum of phases, got 4"),
        ({"phases": "4x4"}, "phases: expected at most the 3 timesteps of tickets, got 4"),
        ({"phases": "half"}, "phases: expected TIMESTEPSxEPOCHS"),
        ({"final_phases": "4x1"}, "final_phases: expected at most the 3 timesteps of tickets, got 4"),
        ({"soft_epochs": 5.0}, r"soft_epochs: expected from 0 to epochs \(4\), got 5.0"),
        ({"soft_epochs": float("nan")}, "soft_epochs: expected from 0"),
        ({"prune_epochs": "3-2"}, "prune_epochs: expected FIRST-LAST within the 4 epochs, as in 2-12, got 3-2"),
        ({"prune_epochs": "1-5"}, "prune_epochs: expected FIRST-LAST within the 4 epochs"),
        ({"prune_epochs": "2"}, "prune_epochs: expected FIRST-LAST"),
        ({"sparsity": None}, "sparsity: expected a percentage, got none"),
    ],
)
def test_settings_that_are_refused(gradual_settings, options, message):
    with pytest.raises(InputError, match=message):
        gradual_settings(**options)


def test_early_time_and_phases_exclude_each_other(quick_settings):
    with pytest.raises(InputError, match="early_time: expected none with phases"):
        quick_settings(early_time=True, phases="1x2,2x1")


@pytest.mark.parametrize(
    ("arch", "phases", "message"),
    [
        ("alexnet", "1x4@16", "phases: expected images of at most 8x8 pixels, got 16x16"),
        ("vgg_digits", "1x4@4", "phases: vgg_digits cannot train on 4x4 pixels: classifier.weight would differ"),
        ("alexnet", "1x4@2", "alexnet needs images of at least 4x4, got 2x2"),
    ],
)
def test_sizes_that_a_network_does_not_take(arch, phases, message, gradual_settings, digits, tmp_path):
    with pytest.raises(InputError, match=message):
        search(gradual_settings(arch=arch, phases=phases), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prunings_per_epoch_are_a_part_of_the_schedule(gradual_run, gradual_settings, digits, tmp_path, monkeypatch):
    """The tickets do depend on how often the mask grows (else the tests above would not see it)."""
    monkeypatch.setattr(growth_module, "PRUNINGS_PER_EPOCH", 2)
    other = search(gradual_settings(), digits, tmp_path / "run")
    assert other[-1].fingerprint != gradual_run[1][-1].fingerprint


def test_the_command(quick_run, tmp_path):
    arguments = ["gradual", "--arch", "vgg_digits", "--dataset", "digits", "--sparsity", "80", "--width", "0.5"]
    arguments += ["--phases", "1x1,2x1", "--schedule", "one-cycle", "--from", str(quick_run[0] / "rounds" / "01.pt")]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)[1:]
    assert found["timesteps"] == 5 and found["sparsity"] == pytest.approx(0.8, abs=1e-3)
    both = CliRunner().invoke(app, [*arguments, "--from-mask", "x.pt", "--out", str(tmp_path / "other")])
    assert both.exit_code == 1 and "--from, --from-mask: expected at most one of the two" in both.output
