"""Networks have the paper's shapes and counts; neurons and batch norm do what their texts say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, surrogate

from spiketicket.errors import InputError
from spiketicket.export.torch.trace import trace
from spiketicket.train.networks.config import ModelConfig, NeuronConfig
from spiketicket.train.networks.layers import TimestepBatchNorm2d, lif
from spiketicket.train.networks.models import ARCHITECTURES, build, lif_spikes, logits, prunable

# Images and classes that each network is meant for.
MEANT_FOR = {
    "vgg_digits": (1, 8, 10),
    "vgg16": (3, 32, 10),
    "resnet19": (3, 32, 10),
    "alexnet": (3, 32, 10),
    "resnet34": (3, 64, 200),
}


def config(arch, **options):
    return ModelConfig(arch, *MEANT_FOR[arch], **options)


# The counts of vgg16 and resnet19 are the paper's.
COUNTS = [
    # arch, parameters, prunable weights, in tensors, MACs once, per timestep, LIF neurons
    ("vgg_digits", 17_850, 17_552, 5, 9_216, 369_920, 3_072),
    ("vgg16", 14_728_266, 14_715_584, 14, 1_769_472, 311_432_192, 276_480),
    ("resnet19", 12_630_858, 12_619_968, 22, 1_769_472, 553_781_760, 393_472),
    ("alexnet", 2_294_858, 2_291_392, 6, 1_769_472, 165_191_680, 172_032),
    ("resnet34", 21_379_592, 21_362_368, 37, 7_077_888, 4_630_614_016, 3_866_624),
]


def test_every_network_is_counted():
    assert {arch for arch, *_ in COUNTS} == set(ARCHITECTURES)


@pytest.mark.parametrize(("arch", "parameters", "weights", "tensors", "once", "per_step", "neurons"), COUNTS)
def test_counts(arch, parameters, weights, tensors, once, per_step, neurons):
    model = build(config(arch, timesteps=1)).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in prunable(model).values()) == weights
    assert len(prunable(model)) == tensors
    graph = trace(model, images_of(arch), 1)
    macs = {True: 0, False: 0}
    for node in graph.weighted():
        macs[graph.values[node.output].timed] += graph.macs(node, dense=True)
    assert macs == {False: once, True: per_step}
    spikes = lif_spikes(model, torch.zeros(1, *images_of(arch)))
    assert sum(s[0, 0].numel() for s in spikes.values()) == neurons


def images_of(arch):
    channels, size, _ = MEANT_FOR[arch]
    return channels, size, size


@pytest.mark.parametrize("row", COUNTS, ids=[row[0] for row in COUNTS])
def test_the_page_has_these_counts(row):
    page = (Path(__file__).parents[3] / "docs" / "networks.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    column = [name.strip("`") for name in table[0]].index(row[0])
    cells = {cells[0]: cells[column] for cells in table}
    arch, parameters, weights, tensors, once, per_step, neurons = row
    assert cells["images, classes"] == "{0}x{1}x{1}, {2}".format(*MEANT_FOR[arch])
    assert cells["parameters"] == f"{parameters:,}"
    assert cells["prunable weights"].removesuffix(" tensors") == f"{weights:,} in {tensors}"
    assert cells["multiply-accumulates, once per image"] == f"{once:,}"
    assert cells["and per timestep"] == f"{per_step:,}"
    assert cells["LIF neurons"] == f"{neurons:,}"
    assert cells["largest p"] == f"{weights / parameters:.2%}"


@pytest.mark.parametrize(
    ("arch", "layers", "shapes"),
    [
        ("vgg16", 13, {"features.0": (8, 32, 32), "features.40": (64, 2, 2)}),
        ("alexnet", 5, {"features.0": (8, 32, 32), "features.4": (24, 16, 16), "features.14": (32, 8, 8)}),
        ("resnet19", 18, {"features.1.fire": (16, 16, 16), "features.8.fire": (64, 4, 4), "classifier.1": (32,)}),
        ("resnet34", 33, {"features.0": (8, 64, 64), "features.4.fire": (16, 32, 32), "features.16.fire": (64, 8, 8)}),
    ],
)
def test_spikes_of_every_layer(arch, layers, shapes):
    network = build(config(arch, timesteps=2, width=1 / 8))
    spikes = lif_spikes(network, torch.zeros(1, *images_of(arch)))
    assert len(spikes) == layers
    assert {name: tuple(spikes[name].shape[2:]) for name in shapes} == shapes
    assert all(s.shape[:2] == (2, 1) for s in spikes.values())


def test_names_of_parameters_stay():
    """Tickets store them."""
    places = [f"features.{place}" for place in (1, 5, 8, 12, 15, 18, 22, 25, 28, 32, 35, 38)]
    assert list(prunable(build(config("vgg16", width=0.1)))) == [
        f"{name}.weight" for name in ("stem.0", *places, "classifier")
    ]
    resnet = list(prunable(build(config("resnet19", width=0.1))))
    assert resnet[:5] == ["stem.0.weight"] + [
        f"features.{name}.weight" for name in ("1.residual.0", "1.residual.3", "1.shortcut.0", "2.residual.0")
    ]
    assert resnet[-2:] == ["classifier.0.weight", "classifier.2.weight"]


@pytest.mark.parametrize("arch", MEANT_FOR)
@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 41), (2, 63)])
def test_any_images_that_fit(arch, channels, size):
    model = build(ModelConfig(arch, channels, size, 7, timesteps=3, width=0.05)).eval()
    assert logits(model, torch.zeros(2, channels, size, size)).shape == (3, 2, 7)
    functional.reset_net(model)
    assert trace(model, (channels, size, size), 3).classes == 7


@pytest.mark.parametrize("arch", ["resnet19", "resnet34"])
@pytest.mark.parametrize("size", [1, 41])
def test_average_over_the_whole_image(arch, size):
    model = build(ModelConfig(arch, 3, size, 10, timesteps=1, width=0.05)).eval()
    values = trace(model, (3, size, size), 1).values
    last = [name for name in values if name.startswith("features") and name.endswith("fire")][-1]
    assert values[last].shape[1:] == (model.pool.kernel_size,) * 2
    assert values["pool"].shape[1:] == (1, 1)


@pytest.mark.parametrize("arch", sorted(set(MEANT_FOR) - {"vgg_digits"}))
def test_width_multiplies_hidden_channels(arch):
    model, full = build(config(arch, width=0.25)), build(config(arch))
    assert prunable(model)["stem.0.weight"].shape == (16, MEANT_FOR[arch][0], 3, 3)
    for name, weight in list(prunable(full).items())[1:-1]:
        assert prunable(model)[name].numel() == weight.numel() / 16


def test_unknown_arch():
    with pytest.raises(InputError, match="unknown arch 'lenet': expected one of vgg_digits, vgg16, resnet19, alexnet"):
        build(ModelConfig("lenet", 3, 32, 10))


@pytest.mark.parametrize(("arch", "least"), [("vgg16", 16), ("alexnet", 4), ("vgg_digits", 2)])
def test_images_that_are_too_small(arch, least):
    build(ModelConfig(arch, 3, least, 10, width=0.05))
    size = least - 1
    with pytest.raises(InputError, match=f"{arch} needs images of at least {least}x{least}, got {size}x{size}"):
        build(ModelConfig(arch, 3, size, 10))


def test_small_images_leave_out_the_last_pooling():
    """So that a network can train on small images first: the tensors are the same."""
    small, large = (build(ModelConfig("vgg16", 3, size, 10, width=0.05)) for size in (16, 32))
    assert [t.shape for t in small.state_dict().values()] == [t.shape for t in large.state_dict().values()]
    assert logits(small, torch.randn(2, 3, 16, 16)).shape == (5, 2, 10)


@pytest.mark.parametrize(
    ("current", "spikes"),
    [(4 / 3 + 1e-6, [1, 1, 1, 1]), (1.2, [0, 1, 0, 1]), (1.02, [0, 0, 1, 0]), (0.99, [0, 0, 0, 0])],
)
def test_neuron_fires_as_worked_out_by_hand(current, spikes):
    neuron = lif(NeuronConfig())
    assert neuron(torch.full((4, 1), current))[:, 0].tolist() == spikes


def test_surrogate_is_the_derivative_of_its_primitive():
    """g(x) = atan(pi alpha x / 2) / pi + 1/2 with alpha = 2; the supplementary prints g where it says g'."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    surrogate.ATan(2.0)(x).sum().backward()
    step = 1e-6
    points = x.detach().numpy()
    primitive = lambda v: np.arctan(np.pi * v) / np.pi + 0.5  # noqa: E731
    numeric = (primitive(points + step) - primitive(points - step)) / (2 * step)
    assert np.allclose(x.grad.numpy(), numeric, atol=1e-8)
    assert np.allclose(x.grad.numpy(), 1 / (1 + (np.pi * points) ** 2), atol=1e-12)


def test_batch_norm_per_timestep_has_statistics_of_each_timestep():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 5, 5) * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None, None] + 1
    norm = TimestepBatchNorm2d(4)
    out = norm(x)
    for step in out:
        assert torch.allclose(step.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
        assert torch.allclose(step.var((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-3)
    running = torch.zeros(4)
    for step in x:
        running = 0.9 * running + 0.1 * step.mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, running, atol=1e-6)
    assert norm.num_batches_tracked == 3


def test_folded_batch_norm_differs_in_training_only():
    torch.manual_seed(0)
    x = torch.randn(5, 4, 3, 32, 32)[0]
    models = {}
    for kind in ("per-timestep", "folded"):
        torch.manual_seed(1)
        models[kind] = build(config("vgg16", width=0.1, batch_norm=kind))
    with torch.no_grad():
        evaluated = [logits(model.eval(), x) for model in models.values()]
        trained = [logits(model.train(), x) for model in models.values()]
    assert torch.equal(*evaluated)
    assert not torch.allclose(*trained)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timesteps", 0),
        ("timesteps", True),
        ("width", -1.0),
        ("batch_norm", "none"),
        ("num_classes", "10"),
        ("arch", 3),
    ],
)
def test_bad_configurations(field, value):
    with pytest.raises(InputError, match=f"bad {field} for a network"):
        ModelConfig(**{"arch": "vgg16", "in_channels": 3, "image_size": 32, "num_classes": 10, field: value})
