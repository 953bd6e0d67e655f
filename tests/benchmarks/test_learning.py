"""The benchmark of learning: that it trains as it says, keeps what is done, and judges by seeds."""

import json

import pytest

pytest.importorskip("torch", reason="training needs torch, of the extra train")
pytest.importorskip("matplotlib", reason="benchmarks need the extra bench")

from benchmarks import learning

SMALL = {
    "arch": "vgg16",
    "width": 0.03,
    "timesteps": 2,
    "images": 60,
    "test_images": 20,
    "epochs": 1,
    "batch_size": 20,
    "lr": 0.1,
    "precisions": "float32,bfloat16",
    "device": "cpu",
}


def test_what_is_done_is_kept(cifar_folder, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    learning.main(**SMALL, data=cifar_folder, seeds=3, folder=whole)
    expected = json.loads((whole / "learning.json").read_text())
    assert all(len(found) == 3 for found in expected["accuracies"].values())
    stopped.mkdir()
    part = {**expected, "accuracies": {name: found[:1] for name, found in expected["accuracies"].items()}}
    (stopped / "learning.json").write_text(json.dumps(part))
    monkeypatch.setattr(learning, "train_by_loop", counted := Counted(learning.train_by_loop))
    learning.main(**SMALL, data=cifar_folder, seeds=3, folder=stopped)
    assert counted.calls == 2
    assert json.loads((stopped / "learning.json").read_text())["accuracies"] == expected["accuracies"]
    assert "difference from the loop (95% interval)" in (stopped / "learning.md").read_text()
    capsys.readouterr()
    with pytest.raises(learning.typer.Exit):
        learning.main(**{**SMALL, "lr": 0.2}, data=cifar_folder, seeds=3, folder=stopped)
    assert "is of another setup" in capsys.readouterr().err.replace("\n", " ")


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, task):
        self.calls += 1
        return self.function(task)


def test_too_few_to_judge(tmp_path, capsys):
    with pytest.raises(learning.typer.Exit):
        learning.main(**{**SMALL, "test_images": 5}, data=tmp_path, seeds=2, folder=tmp_path / "out")
    assert "expected seeds from 3" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_difference_is_of_pairs():
    """By hand: differences 1, 2, 3; their spread 1, t(2) = 4.3027, so 2 +- 4.3027 / sqrt(3)."""
    middle, low, high = learning.difference([11, 22, 33], [10, 20, 30])
    assert (middle, round(low, 4), round(high, 4)) == (2, round(2 - 2.48414, 4), round(2 + 2.48414, 4))
