"""Before and after: what differs by more than noise, what cannot be compared, what is no profile."""

import json

import pytest

from spiketicket.errors import InputError
from spiketicket.profiling.decisions.compare import compare
from spiketicket.profiling.decisions.comparison import comparison_report
from spiketicket.profiling.decisions.stored import read_profile
from tests.support.profiles import latency, model, profile


def test_verdicts():
    """Intervals of 2% each: together 2.8%, so 2% is noise and 5% is not."""
    before = profile(model("a.onnx", [latency(timesteps=t, p50=1.0) for t in (1, 2, 3)], [(1, 0.5)]))
    after = profile(
        model("a.onnx", [latency(timesteps=t, p50=p) for t, p in ((1, 1.02), (2, 1.05), (3, 0.5))], [(1, 0.6)])
    )
    found = compare(before, after)
    assert [change.verdict for change in found.changes] == ["within noise", "slower", "faster"]
    assert found.changes[2].ratio.value == pytest.approx(2.0)
    assert found.changes[0].ratio.low == pytest.approx(1 / 1.02 * (1 - 0.028), rel=2e-3)
    (accuracy,) = found.accuracies
    assert (accuracy.model, accuracy.timesteps, accuracy.before.value, accuracy.after.value) == ("a.onnx", 1, 0.5, 0.6)
    assert accuracy.exceeds and found.alone == [] and found.warnings == []


def test_one_model_each_is_compared_whatever_it_is_called():
    found = compare(profile(model("old.onnx", [latency()])), profile(model("new.onnx", [latency(), latency("torch")])))
    assert len(found.changes) == 1 and found.alone == ["old.onnx, torch, T = 1, batch 1, threads 1"]


def test_another_machine_is_told():
    before = profile(model(rows=[latency()]), machine={"cpu": "old"}, warnings=["it was busy"])
    found = compare(before, profile(model(rows=[latency()]), machine={"cpu": "new"}))
    assert found.warnings == ["not the same machine: cpu was old, is new", "before: it was busy"]


def test_nothing_in_common():
    with pytest.raises(InputError, match="no model, engine, T, batch and number of threads in common"):
        compare(profile(model(rows=[latency(timesteps=1)])), profile(model(rows=[latency(timesteps=2)])))


def test_report_counts_what_changed(tmp_path):
    before = profile(model(rows=[latency(timesteps=t) for t in (1, 2)], accuracies=[(1, 0.5)]))
    after = profile(model(rows=[latency(timesteps=1), latency(timesteps=2, p50=2.0)], accuracies=[(1, 0.45)]))
    report = comparison_report(compare(before, after), tmp_path / "b.json", tmp_path / "a.json", {"cpu": "x"})
    assert "0 became faster and 1 slower by more than noise, 1 did not" in report.lead
    assert [row[-1] for row in report.sections[0].table.rows] == ["within noise", "slower"]
    assert report.sections[1].table.rows[0][-2] == pytest.approx(-5)
    assert report.sections[1].table.rows[0][-1] == "worse"  # by more than two intervals of a point each
    assert report.sections[1].says == "The largest change of accuracy is -5.00 points (a.onnx, T = 1): worse."
    near = profile(model(rows=[latency(timesteps=1)], accuracies=[(1, 0.51)]))
    assert [one.exceeds for one in compare(before, near).accuracies] == [False]
    json.dumps(report.data, allow_nan=False)


def test_other_networks_are_warned_of():
    before, after = (profile(model(rows=[latency()])) for _ in range(2))
    before["models"][0]["metadata"] = {"arch": "vgg16", "dataset": "cifar10"}
    after["models"][0]["metadata"] = {"arch": "vgg16", "dataset": "digits"}
    assert compare(before, before).warnings == []
    expected = "not the same network: dataset of a.onnx was cifar10, is digits"
    assert expected in compare(before, after).warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no profile of snn-profile -x: expected JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"format": "spiketicket.latency"}', "is no profile"),
        (
            json.dumps({**profile(), "version": 2}),
            "expected an inference profile of version 1, got 'inference' of version",
        ),
        (json.dumps({**profile(), "kind": "search"}), "got 'search'"),
        (json.dumps({**profile(), "models": [{"name": "a"}]}), "is damaged: KeyError 'latency'"),
        (json.dumps(profile({**model(), "latency": [{**latency(), "ms": 3}]})), "is damaged"),
        (json.dumps({**profile(model(rows=[latency()])), "models": 7}), "is damaged"),
    ],
)
def test_foreign_and_damaged_profiles_are_refused(tmp_path, text, message):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_profile(path)
