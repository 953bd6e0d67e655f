"""Limits of a TOML file: kept, broken, about nothing, impossible."""

import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.decisions.limits import check_limits, read_limits
from tests.support.profiles import latency, model, profile

ROWS = [latency("native", t, p50=float(t)) for t in (1, 5)] + [latency("torch", 5, p50=50.0)]
MEASURED = profile(model("a.onnx", ROWS, [(1, 0.8), (5, 0.9)]))


def verdicts(tmp_path, text):
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return check_limits(MEASURED, read_limits(path))


@pytest.mark.parametrize(
    ("text", "values", "kept"),
    [
        ('metric = "p50_ms"\nmax = 5.0\nengine = "native"', [1.0, 5.0], [True, True]),
        ('metric = "p50_ms"\nmax = 4.9\nengine = "native"', [1.0, 5.0], [True, False]),
        ('metric = "p95_ms"\nmax = 10\ntimesteps = 5', [6.0, 60.0], [True, False]),
        ('metric = "accuracy"\nmin = 0.9\ntimesteps = 5', [0.9], [True]),
        ('metric = "accuracy"\nmin = 0.9', [0.8, 0.9], [False, True]),
        ('metric = "images_per_second"\nmin = 150\nmax = 250\ntimesteps = 5\nengine = "native"', [200.0], [True]),
        ('metric = "file_bytes"\nmax = 999', [1000], [False]),
        ('metric = "speed"\nmin = 1.0\nengine = "torch"', [1.0], [True]),
    ],
)
def test_rows_are_chosen_and_held(tmp_path, text, values, kept):
    found = verdicts(tmp_path, f"[[limit]]\n{text}\n")
    assert [verdict.value for verdict in found] == pytest.approx(values)
    assert [verdict.kept for verdict in found] == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[limit]]\nmetric = "p50_ms"\nmax = 1\nengine = "cuda"', "nothing was measured that this limit is about"),
        ('[[limit]]\nmetric = "p50_ms"', "expected min or max, got neither"),
        ('[[limit]]\nmetric = "speeed"\nmax = 1', "expected a metric"),
        ('[[limit]]\nmetric = "p50_ms"\nmaximum = 1', "expected a metric"),
        ('[[limit]]\nmetric = "p50_ms"\nmax = "1"', "max must be a number, got '1'"),
        ('[[limit]]\nmetric = "p50_ms"\nmax = nan', "max must be a number"),
        ('[[limit]]\nmetric = "p50_ms"\nmax = 1\ntimesteps = "5"', "timesteps must be int"),
        ("limit = 3", r"expected one or more \[\[limit\]\] tables"),
        ("", r"expected one or more \[\[limit\]\] tables and nothing else, got nothing"),
        ("[[limit", "is not TOML"),
    ],
)
def test_refusals(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        verdicts(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read limits .*none\.toml: No such file"):
        read_limits(tmp_path / "none.toml")
