"""An iteration as a CUDA graph. Instead of CUDA, a stand-in notes what is captured, and calls it in a replay."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from spiketicket.train import loop
from spiketicket.train.config import ModelConfig
from spiketicket.train.cuda import graphed
from spiketicket.train.cuda.graphed import Graphed
from spiketicket.train.distributed import Group
from spiketicket.train.loop import Tally, Trainee
from spiketicket.train.masks import dense_masks
from spiketicket.train.models import build
from spiketicket.train.settings import Settings


class Cuda:
    """As much of torch.cuda as is used. `events`: what the streams were told."""

    def __init__(self):
        self.events, self.capturing, self.works = [], None, True
        self.Stream = lambda: SimpleNamespace(name="side", wait_stream=lambda other: self.events.append("side waits"))
        self.CUDAGraph = lambda: SimpleNamespace(replay=None)

    def current_stream(self):
        return SimpleNamespace(name="main", wait_stream=lambda other: self.events.append("main waits"))

    def stream(self, stream):
        self.events.append(f"on {stream.name}")
        return nullcontext()

    @contextmanager
    def graph(self, graph, stream):
        if not self.works:
            raise RuntimeError("operation not permitted when stream is capturing\nat some place")
        self.events.append(f"captured on {stream.name}")
        self.capturing = graph
        yield
        self.capturing = None

    def watched(self, iterate):
        """What computes nothing while it is captured."""

        def run(images, labels):
            if self.capturing is None:
                return iterate(images, labels)
            results = torch.full((), torch.nan), torch.full((), -1)

            def replay():
                self.events.append("replayed")
                for place, value in zip(results, iterate(images, labels), strict=True):
                    place.copy_(value)

            self.capturing.replay = replay
            return results

        return run


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    monkeypatch.setattr(graphed, "torch", SimpleNamespace(cuda=made))
    return made


def trainee(cuda=None, **options):
    torch.manual_seed(0)
    model = build(ModelConfig("vgg_digits", 1, 8, 10, 2))
    settings = Settings(
        "imp", "vgg_digits", "digits", timesteps=2, rounds=2, epochs=1, rewind_epoch=0, lr=0.05, **options
    )
    made = Trainee(model, dense_masks(model), settings, Group())
    if cuda is not None:
        made.graph = Graphed(cuda.watched(made.iterate))
    return made


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator))
        for size in sizes
    ]


def trained(one, *sizes):
    tally = Tally.empty(torch.device("cpu"))
    for images, labels in batches(*sizes):
        one.step(images, labels, tally, 1.0)
    momenta = [state["momentum_buffer"] for state in one.optimiser.state.values()]
    return one.weights(), momenta, tally.state(Group())


def assert_same(found, expected):
    (weights, momenta, tally), (others, other_momenta, other_tally) = found, expected
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(a, b) for a, b in zip(momenta, other_momenta, strict=True))
    assert tally == other_tally


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_it_trains_as_the_step_itself(cuda, recipe):
    """Weights, momentum and tallies are the same, also with a batch of another size in between, as an epoch's last."""
    sizes = 6, 6, 6, 3, 6, 6
    assert_same(trained(trainee(cuda, recipe=recipe), *sizes), trained(trainee(recipe=recipe), *sizes))
    assert [event for event in cuda.events if "waits" not in event] == [
        "on side", "captured on side", "replayed", "replayed", "on side", "replayed", "replayed"
    ]  # fmt: skip
    assert cuda.events[:3] == ["side waits", "on side", "main waits"]


def test_another_learning_rate_makes_another_graph(cuda):
    found = []
    for one in (trainee(cuda), trainee()):
        first = trained(one, 6, 6, 6)
        one.set_learning_rate(0.01)
        found.append((first[2], trained(one, 6, 6, 6)))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
    assert cuda.events.count("captured on side") == 2 and cuda.events.count("replayed") == 4


def test_after_loading_a_state_it_is_captured_anew(cuda):
    """Momentum lies elsewhere then."""
    found = []
    for one in (trainee(cuda), trainee()):
        trained(one, 6, 6, 6)
        one.load(one.state())
        found.append(trained(one, 6, 6, 6))
    assert_same(*found)
    assert cuda.events.count("captured on side") == 2


def test_what_cannot_be_captured_runs_as_it_is(cuda):
    cuda.works = False
    with pytest.warns(UserWarning, match=r"not be captured: operation not permitted when stream is capturing$") as seen:
        assert_same(trained(trainee(cuda), 6, 6, 6, 6), trained(trainee(), 6, 6, 6, 6))
    assert len(seen) == 1 and "replayed" not in cuda.events


def test_graphs_are_for_one_process_on_a_gpu_whose_scaler_does_not_ask_the_cpu(cuda, monkeypatch):
    monkeypatch.setattr(loop, "available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: None)

    def graph(precision, world=1, device="cuda"):
        monkeypatch.setattr(Group, "wrapped", lambda self, model: model)
        model = build(ModelConfig("vgg_digits", 1, 8, 10, 2))
        settings = Settings("imp", "vgg_digits", "digits", rounds=2, precision=precision)
        return Trainee(model, dense_masks(model), settings, Group(0, world, torch.device(device))).graph

    assert graph("float32") is not None and graph("bfloat16") is not None
    assert graph("float16") is None and graph("bfloat16", world=2) is None and graph("float32", device="cpu") is None
    monkeypatch.setattr(loop, "available", lambda: False)
    assert graph("float32") is None
