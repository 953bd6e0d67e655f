"""An iteration as a CUDA graph; instead of a capture, the iteration itself is called again."""

import pytest
import torch

from spiketicket.errors import InputError
from spiketicket.train.config import ModelConfig
from spiketicket.train.cuda import graphed
from spiketicket.train.cuda.graphed import GraphedStep
from spiketicket.train.distributed import Group
from spiketicket.train.loop import Tally, Trainee
from spiketicket.train.masks import dense_masks
from spiketicket.train.models import build
from spiketicket.train.settings import Settings


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    def captured(run, restore):
        for _ in range(graphed.WARM_UP):
            run()
        restore()
        return run

    monkeypatch.setattr(graphed, "captured", captured)


def trainee(**options):
    torch.manual_seed(0)
    model = build(ModelConfig("vgg_digits", 1, 8, 10, 2))
    settings = Settings(
        "imp", "vgg_digits", "digits", timesteps=2, rounds=2, epochs=1, rewind_epoch=0, lr=0.05, **options
    )
    return Trainee(model, dense_masks(model), settings, Group())


def batches(count, size=6):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_it_trains_as_the_step_itself(recipe):
    """Warming up leaves no trace, nor does a batch in that of the next: weights, momentum and tallies are the same."""
    found = []
    for graphs in (False, True):
        one = trainee(recipe=recipe)
        step = GraphedStep(one) if graphs else one.step
        tally = Tally.empty(torch.device("cpu"))
        for images, labels in batches(5):
            step(images, labels, tally, 1.0)
        momenta = [state["momentum_buffer"] for state in one.optimiser.state.values()]
        found.append((one.weights(), momenta, tally.state(Group())))
    (weights, momenta, tally), (others, other_momenta, other_tally) = found
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(a, b) for a, b in zip(momenta, other_momenta, strict=True))
    assert tally == other_tally and tally[2] == 30


def test_batches_have_one_size():
    step, tally = GraphedStep(trainee()), Tally.empty(torch.device("cpu"))
    for images, labels in batches(2):
        step(images, labels, tally, 1.0)
    with pytest.raises(InputError, match=r"batches of \[6, 1, 8, 8\] and the share 1, got \[3, 1, 8, 8\] and 1"):
        step(*batches(1, 3)[0], tally, 1.0)
    with pytest.raises(InputError, match=r"got \[6, 1, 8, 8\] and 0.5"):
        step(*batches(1)[0], tally, 0.5)


def test_what_cannot_be_captured_is_refused():
    with pytest.raises(InputError, match="float16's scaler asks the CPU"):
        GraphedStep(trainee(precision="float16"))
