import pytest

from spiketicket.errors import InputError
from spiketicket.train.settings import Round, Settings, plan_rounds

VGG16 = (14_715_584, 14_728_266)  # prunable, all parameters
PAPER = [25.0, 43.7, 57.8, 68.3, 76.2, 82.1, 86.6, 89.9, 92.4, 94.3, 95.7, 96.8, 97.5, 98.13]


def settings(method="imp", **options):
    return Settings(method, "vgg16", "cifar10", **options)


def sparsity(keep):
    return 100 * (VGG16[0] - keep) / VGG16[1]


def test_fifteen_rounds_give_the_papers_sparsities():
    rounds = plan_rounds(settings(rounds=15), *VGG16)
    assert rounds[0] == Round(None, VGG16[0], 0, 300, 300)
    assert [sparsity(r.keep) for r in rounds[1:]] == pytest.approx(PAPER, abs=0.06)
    assert {(r.pick, r.first_epoch, r.end, r.schedule) for r in rounds[1:]} == {("magnitude", 20, 300, 280)}


@pytest.mark.parametrize("p", [68.30, 89.91, 95.69, 98.13, 50.0])
def test_sparsity_is_reached_exactly(p):
    for method in ("imp", "oneshot", "random"):
        last = plan_rounds(settings(method, sparsity=p), *VGG16)[-1]
        assert sparsity(last.keep) == pytest.approx(p, abs=1e-5)


def test_rounds_towards_a_sparsity():
    assert len(plan_rounds(settings(sparsity=68.30), *VGG16)) == 5
    assert len(plan_rounds(settings(sparsity=70.0), *VGG16)) == 6


def test_random_trains_to_the_rewind_point_then_prunes_once():
    first, second = plan_rounds(settings("random", rounds=15), *VGG16)
    assert (first.pick, first.first_epoch, first.end) == (None, 0, 20)
    assert first.schedule == 300, "the learning rate falls as in the dense training that IMP rewinds to"
    assert (second.pick, second.first_epoch, second.end, second.schedule) == ("random", 20, 300, 280)
    assert second.keep == plan_rounds(settings(rounds=15), *VGG16)[-1].keep
    assert [r.pick for r in plan_rounds(settings("random", rounds=15, rewind_epoch=0), *VGG16)] == ["random"]


def test_oneshot_without_epochs_is_one_cut_of_the_initial_weights():
    (only,) = plan_rounds(settings("oneshot", sparsity=90.0, epochs=0, rewind_epoch=0), *VGG16)
    assert (only.pick, only.first_epoch, only.end) == ("magnitude", 0, 0)


def test_unreachable_sparsity():
    with pytest.raises(InputError, match=r"cannot be reached: .* 99\.91% of all parameters"):
        plan_rounds(settings(sparsity=99.95), *VGG16)


def test_nothing_to_prune_is_the_dense_training_alone():
    assert [r.pick for r in plan_rounds(settings(sparsity=0.0), *VGG16)] == [None]


@pytest.mark.parametrize("rate", [1e-17, 1e-9, 0.001])
def test_endless_searches_are_refused(rate):
    with pytest.raises(InputError, match="needs more than 100 rounds"):
        plan_rounds(settings(sparsity=80.0, prune_rate=rate), *VGG16)


def test_rounds_that_leave_no_weight_are_refused():
    with pytest.raises(InputError, match=r"12 rounds at prune_rate 0\.9 cannot be reached"):
        plan_rounds(settings(rounds=12, prune_rate=0.9), 1000, 1001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of them"),
        ({"rounds": 1}, "rounds: expected 2 to 100"),
        ({"sparsity": 100.0}, "a percentage from 0 below 100"),
        ({"sparsity": 0.9831}, "did you mean 98.31"),
        ({"rounds": 3, "rewind_epoch": 301}, "rewind_epoch"),
        ({"rounds": 3, "epochs": 0, "rewind_epoch": 0}, "epochs: expected 1 or more for imp"),
        ({"rounds": 3, "prune_rate": 1.0}, "prune_rate"),
        ({"rounds": 3, "lr": float("nan")}, "lr: expected above 0"),
        ({"rounds": 3, "batch_norm": "layer"}, "batch_norm: expected one of per-timestep, folded"),
        ({"rounds": 3, "seed": -1}, "seed"),
        ({"rounds": 3, "seed": 2**32}, "seed"),
        ({"rounds": 3, "batch_size": 1}, "batch norm needs two"),
        ({"rounds": 3, "batch_size": 10**23}, "batch_size: expected 2 to"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        settings(**options)
