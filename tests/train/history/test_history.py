"""Run folders written by hand: what is read of them, in which state they are, and the forecast, by hand as well."""

import fcntl
import subprocess
import sys

import pytest

from spiketicket.errors import InputError
from spiketicket.train.history.events import EarlyBirdRecord, EarlyTimeRecord
from spiketicket.train.history.forecast import SecondsPerEpoch, fit, forecast
from spiketicket.train.history.history import read_history
from tests.support.run_folders import IMP, epochs, plan, ticket, write_run

NOW = 1_800_000_000.0


def test_finished_run(tmp_path):
    history = read_history(write_run(tmp_path, IMP))
    assert history.state == "finished" and history.current is None and not history.damaged
    assert [(t.stage.round, len(t.epochs), t.seconds, t.test_accuracy) for t in history.trainings] == [
        (0, 4, 40.0, 0.93),
        (1, 3, 30.0, 0.92),
        (2, 3, 30.0, 0.91),
    ]
    assert [t.sparsity for t in history.tickets] == [0.0, 0.25, 0.437]
    assert forecast(history, NOW) is None


def test_running_is_who_holds_the_lock(tmp_path):
    folder = write_run(tmp_path, IMP[:-2])
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_history(folder).state == "running"
    history = read_history(folder)
    assert history.state == "interrupted"
    assert (history.current.stage.round, len(history.current.epochs), history.current.epochs_left) == (2, 2, 1)
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # asking did not keep it


def test_a_search_that_has_just_begun(tmp_path):
    folder = write_run(tmp_path, [])
    (folder / "metrics.jsonl").unlink()
    (folder / ".lock").unlink()
    history = read_history(folder)
    assert history.state == "interrupted" and history.trainings == () and forecast(history, NOW) is None


STOPPED = {"event": "stopped", "reason": "out of time", "round": 1, "epoch": 2}


def test_stopped_until_it_goes_on(tmp_path):
    history = read_history(write_run(tmp_path / "a", [*IMP[:7], STOPPED]))
    assert history.state == "stopped" and history.stop.reason == "out of time"
    history = read_history(write_run(tmp_path / "b", [*IMP[:7], STOPPED, IMP[7]]))
    assert history.state == "interrupted" and history.stop is None


def test_last_line_cut_short_is_ignored_and_others_are_named(tmp_path):
    folder = write_run(tmp_path, IMP[:5], tail='{"event": "epoch", "rou')
    assert read_history(folder).damaged == () and len(read_history(folder).epochs) == 4
    bad = '{"event": "epoch", "rou\n[1]\n{"event": "epoch", "round": 1, "kind": "search", "epoch": -1}\n\n'
    history = read_history(write_run(tmp_path, IMP[:5], tail=bad + '{"event": "applause"}\n'))
    log = tmp_path / "metrics.jsonl"
    assert history.damaged == (
        f"{log}, line 6: not JSON",
        f'{log}, line 7: expected an object with an "event"',
        f"{log}, line 8: epoch: epoch: expected int, got -1",
    )
    assert len(history.epochs) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 0}, "timesteps: expected int, got 0"),
        ({"round": True}, "round: expected int, got True"),
        ({"seconds": "long"}, "seconds: expected float, got 'long'"),
        ({"seconds": None}, "seconds: expected float, got None"),
        ({"lr": 10**400}, "int too large"),
        ({"kind": ["search"]}, "kind: expected str"),
        ({"epoch": [1]}, "epoch: expected int"),
    ],
)
def test_fields_that_are_wrong(tmp_path, change, message):
    (event,) = epochs(0, "search", 1, 5, 1.0)
    history = read_history(write_run(tmp_path, [{**event, **change}, {"event": "plan", "stages": 3}, *IMP[:2]]))
    assert message in history.damaged[0] and "stages: expected a list" in history.damaged[1]
    assert len(history.epochs) == 1 and len(history.stages) == 3


def test_sparsity_that_is_no_share(tmp_path):
    history = read_history(write_run(tmp_path, [ticket(0, "search", 1.0, 0.9, 1.0)]))
    assert "ticket: sparsity: expected a share from 0 below 1, got 1.0" in history.damaged[0]


def test_loss_that_is_no_number_reads_as_unknown(tmp_path):
    history = read_history(write_run(tmp_path, epochs(0, "search", 1, 5, 1.0, loss=float("nan"))))
    assert history.epochs[0].loss is None and not history.damaged


def test_an_epoch_trained_again_counts_once(tmp_path):
    history = read_history(write_run(tmp_path, [*IMP[:5], *epochs(0, "search", 2, 5, 20.0, first=2)]))
    assert [epoch.epoch for epoch in history.epochs] == [0, 1, 2, 3]
    assert history.trainings[0].seconds == 60.0


def test_final_training_of_a_round_is_another(tmp_path):
    events = [
        plan((0, "search", 2, 3, 0.0), (0, "final", 2, 5, 0.0)),
        *epochs(0, "search", 1, 5, 1.0),
        *epochs(0, "search", 1, 3, 1.0, first=1),
        *epochs(0, "final", 1, 5, 2.0),
    ]
    search, final = read_history(write_run(tmp_path, events)).trainings
    assert (search.done, search.seconds, search.timesteps) == (True, 2.0, (5, 3))
    assert (final.done, final.seconds, final.timesteps, final.epochs_left) == (False, 2.0, (5,), 1)


def test_last_plan_counts_and_a_missing_one_is_made_up_from_the_log(tmp_path):
    history = read_history(write_run(tmp_path / "a", [plan((0, "search", 9, 5, 0.0)), *IMP]))
    assert len(history.trainings) == 3 and history.trainings[0].stage.epochs == 4
    history = read_history(write_run(tmp_path / "b", IMP[1:6]))
    assert [(t.stage.kind, t.stage.epochs) for t in history.trainings] == [("search", 4)]


def test_an_untrained_ticket_finishes_its_round(tmp_path):
    stage = plan((0, "search", 0, 5, 0.6))
    assert read_history(write_run(tmp_path / "a", [stage])).state == "interrupted"
    untrained = ticket(0, "search", 0.6, None, 0.0)
    assert read_history(write_run(tmp_path / "b", [stage, untrained])).state == "finished"


def test_early_time_and_early_bird(tmp_path):
    curve = {
        "event": "early_time",
        "round": 0,
        "epoch": 2,
        "raw": [2.0, 1.0, float("nan")],
        "threshold": 0.6,
        "normalised": [2, 1, 0.0],
        "chosen": 3,
        "divergence": "forward",
        "images": 1000,
    }
    birds = [
        {
            "event": "early_bird",
            "round": 0,
            "epoch": e,
            "hamming": 0.1 * e if e else None,
            "overlap": None,
            "stop": e == 2,
        }
        for e in range(3)
    ]
    history = read_history(write_run(tmp_path, [curve, *birds]))
    assert history.early_time == (
        EarlyTimeRecord(
            round=0,
            epoch=2,
            normalised=(2.0, 1.0, 0.0),
            chosen=3,
            raw=(2.0, 1.0, None),
            threshold=0.6,
            divergence="forward",
        ),
    )
    assert history.early_bird[1:] == (
        EarlyBirdRecord(round=0, epoch=1, hamming=0.1),
        EarlyBirdRecord(round=0, epoch=2, hamming=0.2, stop=True),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "is no run folder of snn-search: it does not exist"),
        ({"thesis.tex": ""}, "is no run folder of snn-search: it has no settings.json"),
        ({"settings.json": "{"}, "settings.json is damaged"),
        ({"settings.json": "[]"}, "no settings of a search: expected a JSON object, got list"),
        ({"settings.json": '{"method": "imp"}'}, "with method, arch and dataset"),
    ],
)
def test_folders_that_are_no_runs(tmp_path, files, message):
    folder = tmp_path / "run"
    for name, text in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_history(folder)


def test_reading_needs_no_torch():
    code = "import sys, spiketicket.cli.search.history; print({'torch', 'matplotlib', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_forecast_from_the_same_timesteps(tmp_path):
    """2 of 4 epochs done at 10 s, then two trainings of 3: 2 + 3 + 3 epochs of 10 s."""
    history = read_history(write_run(tmp_path, IMP[:3]))
    expected = forecast(history, NOW)
    assert (expected.seconds_left, expected.ends, expected.at_most) == (80.0, NOW + 80.0, False)
    assert expected.paces == (SecondsPerEpoch(5, 10.0, "measured"),)


def test_forecast_scales_by_timesteps(tmp_path):
    """3 s per epoch at T = 3: one is left of it, and two at T = 5, of 5 s each."""
    stages = plan((0, "search", 3, 3, 0.0), (0, "final", 2, 5, 0.0))
    expected = forecast(read_history(write_run(tmp_path, [stages, *epochs(0, "search", 2, 3, 3.0)])), NOW)
    assert expected.seconds_left == pytest.approx(3 + 2 * 5)
    assert expected.paces == (SecondsPerEpoch(3, 3.0, "measured"), SecondsPerEpoch(5, pytest.approx(5.0), "scaled"))


def test_forecast_fits_several_timesteps(tmp_path):
    """7 s at T = 2 and 11 s at T = 4 are 3 + 2 T: 13 s at T = 5."""
    stages = plan((0, "search", 3, 4, 0.0), (0, "final", 2, 5, 0.0))
    events = [stages, *epochs(0, "search", 1, 2, 7.0), *epochs(0, "search", 1, 4, 11.0, first=1)]
    expected = forecast(read_history(write_run(tmp_path, events)), NOW)
    assert expected.seconds_left == pytest.approx(11 + 2 * 13)
    assert expected.paces[1] == SecondsPerEpoch(5, pytest.approx(13.0), "fitted")


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        ({3: 6.0}, (0.0, 2.0)),
        ({1: 3.0, 2: 5.0, 3: 7.0}, (1.0, 2.0)),
        ({1: 3.0, 2: 5.0, 3: 10.0}, (0.0, 43 / 14)),  # unbound: -1 + 3.5 T
        ({2: 5.0, 4: 4.0}, (4.5, 0.0)),  # unbound: 6 - T / 2, negative from T = 12
    ],
)
def test_fit(measured, line):
    assert fit(measured) == pytest.approx(line)


def test_a_training_that_has_its_ticket_takes_no_more_time(tmp_path):
    early = [*IMP[:2], ticket(0, "search", 0.0, 0.9, 10.0)]  # after 1 of 4 epochs
    history = read_history(write_run(tmp_path, early))
    assert history.current.stage.round == 1 and forecast(history, NOW).seconds_left == 60.0


def test_forecast_takes_the_last_epochs(tmp_path):
    stages = plan((0, "search", 31, 5, 0.0))
    events = [stages, *epochs(0, "search", 10, 5, 99.0), *epochs(0, "search", 20, 5, 4.0, first=10)]
    assert forecast(read_history(write_run(tmp_path, events)), NOW).seconds_left == 4.0


def test_forecast_of_a_search_at_work_counts_the_epoch_at_work(tmp_path):
    folder = write_run(tmp_path, IMP[:3])
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        history = read_history(folder)
    assert history.running
    assert forecast(history, history.changed + 4).seconds_left == pytest.approx(80 - 4)
    assert forecast(history, history.changed + 400).seconds_left == pytest.approx(80 - 10), "no more than one epoch"
    assert forecast(history, history.changed - 400).seconds_left == pytest.approx(80), "a clock that was set back"


def test_forecast_is_a_bound_while_the_plan_may_shrink(tmp_path):
    curve = {"event": "early_time", "round": 0, "epoch": 2, "raw": [], "normalised": [2.0, 1.0], "chosen": 1}

    def at_most(*events, **options):
        return forecast(read_history(write_run(tmp_path, [*IMP[:3], *events], **options)), NOW).at_most

    assert at_most(early_time=True) and not at_most(curve, early_time=True)
    assert at_most(method="eb")


def phased(folder, phases="1x2@16,1x1,5x2", done=1):
    stages = plan((1, "search", 0, 5, 0.683), (2, "search", 5, 5, 0.9))
    stages["stages"][1] |= {"phases": phases, "image_size": 32}
    return write_run(folder, [stages, *epochs(2, "search", done, 1, 10.0, image_size=16)], method="gradual")


def test_what_is_left_of_phases(tmp_path):
    history = read_history(phased(tmp_path / "run"))
    taken, grown = history.trainings
    assert history.current is grown, "a ticket on the way has no training of its own"
    assert taken.epochs_left == 0 and not taken.done
    assert grown.coming == [(1, 16), (1, None), (5, None), (5, None)] and grown.timesteps == (1, 5)
    # 10 s on a quarter of the pixels at T = 1.
    assert forecast(history, 0.0).seconds_left == pytest.approx(10 + 40 + 2 * 200)


@pytest.mark.parametrize("phases", ["", "1x2;5x2", "1x2@", 7])
def test_phases_that_are_none(tmp_path, phases):
    history = read_history(phased(tmp_path / "run", phases))
    assert history.damaged if phases else history.trainings[1].coming == [(5, None)] * 4


def test_a_change_of_phase(tmp_path):
    events = [
        {
            "event": "phase",
            "round": 2,
            "kind": "search",
            "epoch": 3,
            "timesteps": 5,
            "image_size": None,
            "validation_accuracy": 0.5,
        },
    ]
    (change,) = read_history(write_run(tmp_path / "run", events)).phases
    assert (change.epoch, change.timesteps, change.image_size, change.validation_accuracy) == (3, 5, None, 0.5)
