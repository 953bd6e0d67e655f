import pytest

from spiketicket.errors import InputError
from spiketicket.train.search.plan import Stage, plan_stages, rewind_point
from spiketicket.train.search.settings import SearchSettings

VGG16 = (14_715_584, 14_728_266)  # prunable, all parameters
PAPER = [25.0, 43.7, 57.8, 68.3, 76.2, 82.1, 86.6, 89.9, 92.4, 94.3, 95.7, 96.8, 97.5, 98.13]
LADDER = {4: 68.30, 8: 89.91, 11: 95.69, 14: 98.13}  # the sparsities that the paper reports


def settings(method="imp", **options):
    return SearchSettings(method, "vgg16", "cifar10", **options)


def sparsity(keep):
    return 100 * (VGG16[0] - keep) / VGG16[1]


def test_fifteen_rounds_give_the_papers_sparsities():
    stages = plan_stages(settings(rounds=15), *VGG16)
    assert stages[0] == Stage(0, "search", None, VGG16[0], 0, 300, 300)
    assert [sparsity(s.keep) for s in stages[1:]] == pytest.approx(PAPER, abs=0.06)
    assert {n: round(sparsity(stages[n].keep), 2) for n in LADDER} == LADDER
    assert {(s.pick, s.first_epoch, s.end, s.schedule) for s in stages[1:]} == {("magnitude", 20, 300, 280)}
    assert {s.kind for s in stages} == {"search"}, "every round trains at full T: no training beside the search"


@pytest.mark.parametrize("p", [68.30, 89.91, 95.69, 98.13, 50.0])
def test_sparsity_is_reached_exactly(p):
    for method in ("imp", "oneshot", "random", "eb"):
        last = plan_stages(settings(method, sparsity=p), *VGG16)[-1]
        assert sparsity(last.keep) == pytest.approx(p, abs=1e-5)


def test_rounds_towards_a_sparsity():
    assert len(plan_stages(settings(sparsity=68.30), *VGG16)) == 5
    assert len(plan_stages(settings(sparsity=70.0), *VGG16)) == 6


def test_early_time_trains_reported_tickets_at_full_t():
    stages = plan_stages(settings(rounds=15, early_time=True, finals=(4, 8, 11)), *VGG16)
    finals = {s.round: s for s in stages if s.kind == "final"}
    assert set(finals) == {4, 8, 11, 14}
    searches = [s.round for s in stages if s.kind == "search"]
    assert searches == list(range(14)), "nothing is pruned after the last round: its search training is left out"
    assert all(finals[n].keep == stages_of(15)[n].keep for n in LADDER)
    assert {(s.first_epoch, s.end) for s in finals.values()} == {(20, 300)}
    assert stages.index(finals[4]) == 5, "a ticket is trained as soon as it is found"


def stages_of(rounds):
    return plan_stages(settings(rounds=rounds), *VGG16)


def test_early_bird_searches_densely_and_trains_from_init():
    search, final = plan_stages(settings("eb", sparsity=90.0, epochs=160), *VGG16)
    assert (search.kind, search.pick, search.lr_factor, search.until_mask_settles) == ("search", None, 2.0, True)
    assert (final.kind, final.pick, final.first_epoch, final.end, final.lr_factor) == (
        "final",
        "magnitude",
        0,
        160,
        1.0,
    )


def test_random_trains_to_the_rewind_point_then_prunes_once():
    first, second = plan_stages(settings("random", rounds=15), *VGG16)
    assert (first.pick, first.first_epoch, first.end) == (None, 0, 20)
    assert first.schedule == 300, "the learning rate falls as in the dense training that IMP rewinds to"
    assert (second.pick, second.first_epoch, second.end, second.schedule) == ("random", 20, 300, 280)
    assert second.keep == stages_of(15)[-1].keep
    assert [s.pick for s in plan_stages(settings("random", rounds=15, rewind_epoch=0), *VGG16)] == ["random"]


def test_oneshot_without_epochs_is_one_cut_of_the_initial_weights():
    (only,) = plan_stages(settings("oneshot", sparsity=90.0, epochs=0, rewind_epoch=0), *VGG16)
    assert (only.pick, only.first_epoch, only.end) == ("magnitude", 0, 0)


def test_the_released_code_takes_its_snapshot_an_epoch_late_and_steps_early_birds_schedule_twice():
    assert rewind_point(settings(rounds=15)) == 20
    assert rewind_point(settings(rounds=15, recipe="released")) == 21
    assert rewind_point(settings(rounds=15, recipe="released", rewind_epoch=0)) == 0
    assert plan_stages(settings("eb", sparsity=90.0), *VGG16)[1].schedule_steps == 1
    assert plan_stages(settings("eb", sparsity=90.0, recipe="released"), *VGG16)[1].schedule_steps == 2


def test_early_time_needs_something_to_shorten():
    with pytest.raises(InputError, match="expected a rewind_epoch of 3 or more for random, got 0"):
        plan_stages(settings("random", sparsity=90.0, early_time=True, rewind_epoch=0), *VGG16)
    with pytest.raises(InputError, match="expected something to prune, got sparsity 0"):
        plan_stages(settings(sparsity=0.0, early_time=True), *VGG16)


def test_unreachable_sparsity():
    with pytest.raises(InputError, match=r"cannot be reached: .* 99\.91% of all parameters"):
        plan_stages(settings(sparsity=99.95), *VGG16)


def test_finals_must_be_rounds():
    with pytest.raises(InputError, match="finals: expected rounds from 1 to 4, got 5"):
        plan_stages(settings(sparsity=68.30, early_time=True, finals=(2, 5)), *VGG16)


def test_nothing_to_prune_is_the_dense_training_alone():
    assert [s.pick for s in plan_stages(settings(sparsity=0.0), *VGG16)] == [None]


@pytest.mark.parametrize("rate", [1e-17, 1e-9, 0.001])
def test_endless_searches_are_refused(rate):
    with pytest.raises(InputError, match="needs more than 100 rounds"):
        plan_stages(settings(sparsity=80.0, prune_rate=rate), *VGG16)


def test_rounds_that_leave_no_weight_are_refused():
    with pytest.raises(InputError, match=r"12 rounds at prune_rate 0\.9 cannot be reached"):
        plan_stages(settings(rounds=12, prune_rate=0.9), 1000, 1001)


def test_a_last_round_that_would_prune_next_to_nothing_is_merged():
    """25% of all parameters is a little more than one round's 25% of the prunable ones."""
    _, only = plan_stages(settings(sparsity=25.0), *VGG16)
    assert sparsity(only.keep) == pytest.approx(25.0, abs=1e-5)


def test_as_many_rounds_as_asked_for_however_small():
    stages = plan_stages(settings(rounds=15, prune_rate=0.01), *VGG16)
    assert len(stages) == 15
    assert [s.keep for s in stages] == [round(VGG16[0] * 0.99**n) for n in range(15)]
