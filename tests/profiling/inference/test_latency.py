"""What is made of measured seconds: costs of timesteps, speeds, images per second. The clock is not asked."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from spiketicket.profiling.inference import latency
from spiketicket.profiling.inference.latency import measure_latency
from spiketicket.profiling.inference.samples import load_samples
from spiketicket.profiling.inference.sections import first_logits_section
from spiketicket.profiling.inference.settings import ProfileSettings
from spiketicket.profiling.measure.clock import Measurement
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing
from spiketicket.runtime import Session

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"
NOISE = Noise(None, None, None, 0.0, "", None, 1)
SECONDS = {("native", 1): 2.0, ("native", 3): 5.0, ("reference", 1): 4.0, ("reference", 3): 40.0}
SECONDS |= {("first", None): 1.0, ("exit", 0.5): 64.0}  # of a batch; of all 32 timed images


def take(runs, **_):
    return Measurement({key: Timing(((SECONDS[key],),) * 10) for key in runs}, NOISE)


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(latency, "measure", take)
    with Session(DIGITS) as session:
        samples = load_samples(session, None, None, 40)
    settings = ProfileSettings(("native", "reference"), (1, 3), batches=(1, 4))
    return measure_latency(DIGITS, samples, settings, [0.5])


def test_figures_of_a_row(found):
    rows = {(row.engine, row.timesteps, row.batch): row for row in found.rows}
    assert len(rows) == 8
    # Two timesteps more take 3 seconds more, or 36.
    assert {key: row.marginal and row.marginal.value for key, row in rows.items() if key[2] == 1} == {
        ("native", 1, 1): None,
        ("native", 3, 1): 1.5,
        ("reference", 1, 1): None,
        ("reference", 3, 1): 18.0,
    }
    # As fast as the first engine at the same T: the reference takes 2 and 8 times as long.
    assert {key[:2]: row.speed.value for key, row in rows.items()} == pytest.approx(
        {("native", 1): 1.0, ("native", 3): 1.0, ("reference", 1): 0.5, ("reference", 3): 0.125}
    )
    assert rows["native", 3, 4].images_per_second() == pytest.approx(4 / 5)
    written = rows["native", 3, 4].to_dict((50.0,))
    assert (written["ms"]["p50"], written["percentiles_ms"], written["marginal_ms"]["value"]) == (
        5e3,
        {"50": 5e3},
        1.5e3,
    )


def test_early_exit_is_per_image_and_first_logits_per_run(found):
    assert [(row.margin, row.batch, row.timing.median().value) for row in found.exits] == [(0.5, 1, 2.0)]
    assert [(row.batch, row.timing.median().value) for row in found.first] == [(1, 1.0), (4, 1.0)]


def test_first_logits_stand_beside_the_native_run_of_all_timesteps(found):
    section = first_logits_section([SimpleNamespace(name="digits", latency=found)])
    assert [row[3:] for row in section.table.rows] == [(1e3, 5e3, 3)] * 2
