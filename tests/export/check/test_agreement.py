"""torch, onnxruntime and native agree with the oracle on every network.

Tickets are cut from initial weights (oneshot) at the paper's sparsities. Every layer's initial
weights are scaled to unit variance first: as they are, a global cut at 98.13% leaves some layers
(ResNet19's 3x3 convolutions, VGG16's classifier) without a single weight, and the comparison blind.
So would be that of ResNet34, where spikes die out on the long way through sparse blocks: its batch norm is shifted.
"""

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

from spiketicket.export.check.agreement import compare
from spiketicket.export.torch.trace import trace
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.engine import Trace
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, lif_spikes, logits, prunable
from spiketicket.train.pruning import masks
from spiketicket.train.pruning.strategies import magnitude_masks
from tests.support.graphs import images
from tests.support.tiers import beyond_the_first

SPARSITIES = [0.0, 68.30, 98.13]
STEPS = range(1, 7)
BATCHES = (1, 3)
BETA = {"resnet34": 0.25}  # of batch norm


def oneshot(arch, sparsity, width, size, channels):
    torch.manual_seed(0)
    model = build(ModelConfig(arch, channels, size, 10, timesteps=max(STEPS), width=width))
    weights = prunable(model)
    with torch.no_grad():
        for weight in weights.values():
            weight.div_(weight.std())
    total = sum(p.numel() for p in model.parameters())
    keep = sum(w.numel() for w in weights.values()) - round(sparsity / 100 * total)
    masks.apply_masks(model, magnitude_masks(weights, masks.dense_masks(model), keep))
    calibration = torch.from_numpy(images(np.random.default_rng(1), 48, (channels, size, size)))
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = None
        torch.nn.init.constant_(norm.bias, BETA.get(arch, 0.0))
    with torch.no_grad():
        logits(model.train(), calibration)
    functional.reset_net(model)
    return model.eval()


def prefix(trace, timesteps, batch):
    """The trace of the first timesteps and images: a network is causal, and images do not meet."""
    return Trace({k: v[:timesteps, :batch] for k, v in trace.spikes.items()}, trace.logits_t[:timesteps, :batch])


def run_torch(model, x, timesteps):
    model.repeat.timesteps = timesteps
    tensor = torch.from_numpy(x)
    spikes = {name: s.numpy() for name, s in lif_spikes(model, tensor).items()}
    with torch.no_grad():
        return Trace(spikes, logits(model, tensor).numpy())


def check(arch, sparsity, tmp_path, width=1.0, size=32, channels=3):
    model = oneshot(arch, sparsity, width, size, channels)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(trace(model, (channels, size, size), max(STEPS))).SerializeToString())
    x = images(np.random.default_rng(2), max(BATCHES), (channels, size, size))
    with Session(path, engine="reference") as session:
        oracle = session.trace({"input": x}, max(STEPS))
    assert 0.02 < oracle.spikes["features.0"].mean() < 0.4, "the network is alive"
    assert all(spikes.any() for spikes in oracle.spikes.values()), "every layer is"
    sessions = {engine: Session(path, engine=engine) for engine in ("native", "onnxruntime")}
    for timesteps in STEPS:
        for batch in BATCHES:
            feeds = {"input": x[:batch]}
            traces = {"torch": run_torch(model, x[:batch], timesteps)}
            for engine, session in sessions.items():
                traces[engine] = session.trace(feeds, timesteps)
            for engine, got in traces.items():
                agreement = compare(engine, got, "reference", prefix(oracle, timesteps, batch))
                assert agreement.mismatch < 1e-5, (engine, timesteps, batch, agreement)
                assert agreement.logits <= 1e-4, (engine, timesteps, batch, agreement)
                changed = round((1 - agreement.top1) * batch)
                assert changed <= batch - agreement.clean, "a class may change only where a spike has flipped"
    for session in sessions.values():
        session.close()
    return path


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_digits(tmp_path, sparsity):
    check("vgg_digits", min(sparsity, 90.0), tmp_path, size=8, channels=1)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("arch", beyond_the_first(pytest.mark.slow, ["vgg16", "resnet19", "alexnet", "resnet34"]))
def test_narrow_networks(tmp_path, arch, sparsity):
    # resnet34 has six times as many synapses per timestep as the others on images of their size
    check(arch, sparsity, tmp_path, width=0.25, size=16 if arch == "resnet34" else 32)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("arch", "size"), [("vgg16", 32), ("resnet19", 32), ("alexnet", 32)])
def test_full_networks(tmp_path, arch, size, sparsity):
    path = check(arch, sparsity, tmp_path, size=size)
    if arch == "vgg16" and sparsity == 98.13:
        assert path.stat().st_size < 3_000_000
