"""An iteration as a CUDA graph. Instead of CUDA, a stand-in notes what is captured, and calls it in a replay."""

import gc
import weakref
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from spiketicket.train.loop import loop
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.cuda import graphed
from spiketicket.train.networks.cuda.graphed import Graphed
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.masks import dense_masks
from spiketicket.train.search.settings import SearchSettings


class Cuda:
    """As much of torch.cuda as is used. `events`: what the streams were told; `present`: the present stream."""

    def __init__(self):
        self.events, self.capturing, self.error = [], None, None
        self.main = self.present = self.made("main")
        self.Stream = lambda device: self.made("side")
        self.CUDAGraph = lambda: SimpleNamespace(replay=None)
        self.set_stream = lambda stream: setattr(self, "present", stream)

    def made(self, name):
        return SimpleNamespace(name=name, device=None, wait_stream=lambda _: self.events.append(f"{name} waits"))

    def current_stream(self, device):
        return self.present

    @contextmanager
    def stream(self, stream):
        self.events.append(f"on {stream.name}")
        before, self.present = self.present, stream
        yield
        self.present = before

    @contextmanager
    def graph(self, graph, stream):
        """As torch's own does, it stays on the stream where ending a capture fails."""
        self.events.append(f"captured on {stream.name}")
        self.present, self.capturing = stream, graph
        try:
            yield
            if self.error:
                raise RuntimeError(self.error)
        except RuntimeError:
            self.capturing = None
            raise RuntimeError("capture_end: failed due to a previous error\nat some place") from None
        self.present, self.capturing = self.main, None

    def watched(self, state):
        """What computes nothing while it is captured."""
        iterate = state.iterate

        def run(images, labels, share=1.0):
            if self.capturing is None:
                return iterate(images, labels)
            assert state.graph.replay is None, "two graphs would need twice the memory"
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
    monkeypatch.setattr(Graphed, "failed", [])
    return made


def training_state(cuda=None, **options):
    torch.manual_seed(0)
    model = build(ModelConfig("vgg_digits", 1, 8, 10, 2))
    settings = SearchSettings(
        "imp", "vgg_digits", "digits", timesteps=2, rounds=2, epochs=1, rewind_epoch=0, lr=0.05, **options
    )
    made = TrainingState(model, dense_masks(model), settings, Group())
    if cuda is not None:
        made.graph, made.rate = Graphed(made.group.device), torch.tensor(0.0)
        made.set_learning_rate(0.05)
        made.iterate = cuda.watched(made)
    return made


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator))
        for size in sizes
    ]


def trained(one, *sizes):
    epoch_mean = EpochMean.empty(torch.device("cpu"))
    for images, labels in batches(*sizes):
        one.step(images, labels, epoch_mean, 1.0)
    assert not epoch_mean.loss.requires_grad
    momenta = [state["momentum_buffer"] for state in one.optimiser.state.values()]
    return one.weights(), momenta, epoch_mean.state(Group())


def assert_same(found, expected):
    (weights, momenta, epoch_mean), (others, other_momenta, other_mean) = found, expected
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(a, b) for a, b in zip(momenta, other_momenta, strict=True))
    assert epoch_mean == other_mean


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_it_trains_as_the_step_itself(cuda, recipe):
    """Weights, momentum and tallies are the same, also with a batch of another size in between, as an epoch's last."""
    sizes = 6, 6, 6, 3, 6, 6
    assert_same(trained(training_state(cuda, recipe=recipe), *sizes), trained(training_state(recipe=recipe), *sizes))
    assert [event for event in cuda.events if "waits" not in event] == [
        "on side",
        "captured on side",
        "replayed",
        "replayed",
        "on side",
        "replayed",
        "replayed",
    ]
    assert cuda.events[:3] == ["side waits", "on side", "main waits"]


def test_the_learning_rate_lies_where_the_graph_reads_it(cuda):
    found = []
    for one in (training_state(cuda), training_state()):
        first = trained(one, 6, 6, 6)
        one.set_learning_rate(0.01)
        found.append((first[2], trained(one, 6, 6, 6)))
        assert one.state()["optimiser"]["param_groups"][0]["lr"] == pytest.approx(0.01)
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
    assert cuda.events.count("captured on side") == 1 and cuda.events.count("replayed") == 5


def test_after_loading_a_state_it_is_captured_anew(cuda):
    """Momentum lies elsewhere then, and begins anew where the state had none."""
    found = []
    for one in (training_state(cuda), training_state()):
        new = one.state()
        trained(one, 6, 6, 6)
        one.load(deepcopy(new))
        one.set_learning_rate(0.02)
        found.append(trained(one, 6, 6, 6))
        (options,) = one.optimiser.param_groups
        assert options["lr"] is one.rate or one.rate is None
    assert_same(*found)
    assert [event for event in cuda.events if "waits" not in event] == 2 * [
        "on side",
        "captured on side",
        "replayed",
        "replayed",
    ]


def test_an_old_training_is_freed_at_once(cuda):
    """With all that its graph holds; nobody waits for the garbage collector."""
    one = training_state()
    one.graph = Graphed(one.group.device)
    gc.collect()
    gc.disable()
    try:
        seen = weakref.ref(one)
        del one
        assert seen() is None
    finally:
        gc.enable()


def test_what_cannot_be_captured_runs_as_it_is(cuda):
    """Torch's own error is what came of the first one, and leaves its stream as the present one."""
    cuda.error = "operation not permitted when stream is capturing"
    one, plain = training_state(cuda), training_state()
    with pytest.warns(UserWarning, match=r"not be captured: operation not permitted when stream is capturing$") as seen:
        assert_same(trained(one, 6, 6, 6, 6), trained(plain, 6, 6, 6, 6))
    assert len(seen) == 1 and "replayed" not in cuda.events and cuda.present is cuda.main
    cuda.events.clear()
    trained(training_state(cuda), 6, 6, 6)
    assert "captured on side" not in cuda.events, "in this process, no other will try again"


def test_graphs_are_for_one_process_on_a_gpu_whose_scaler_does_not_ask_the_cpu(cuda, monkeypatch):
    monkeypatch.setattr(loop, "available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: None)
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *values, device=None, **options: tensor(*values, **options))

    def graph(precision, world=1, device="cuda"):
        monkeypatch.setattr(Group, "wrapped", lambda self, model: model)
        model = build(ModelConfig("vgg_digits", 1, 8, 10, 2))
        settings = SearchSettings("imp", "vgg_digits", "digits", rounds=2, precision=precision)
        one = TrainingState(model, dense_masks(model), settings, Group(0, world, torch.device(device)))
        assert (one.graph is None) == (one.rate is None)
        return one.graph

    assert graph("float32") is not None and graph("bfloat16") is not None
    assert graph("float16") is None and graph("bfloat16", world=2) is None and graph("float32", device="cpu") is None
    monkeypatch.setattr(loop, "available", lambda: False)
    assert graph("float32") is None
