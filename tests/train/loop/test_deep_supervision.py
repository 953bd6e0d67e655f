"""Classifiers at every layer of neurons."""

from dataclasses import replace

import pytest
import torch

from spiketicket.train.loop.deep_supervision import DeeplySupervised, mean_cross_entropy
from spiketicket.train.loop.distributed import Group
from spiketicket.train.loop.loop import EpochMean, TrainingState
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build, lif_spikes, logits
from spiketicket.train.pruning.masks import dense_masks

VGG = ModelConfig("vgg_digits", in_channels=1, image_size=8, num_classes=10, timesteps=3)


@pytest.fixture
def images():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4


@pytest.fixture
def labels():
    return torch.arange(5)


def test_the_logits_are_the_networks_own(images):
    torch.manual_seed(0)
    network = build(VGG)
    supervised = DeeplySupervised(network, images)
    out, of_layers = supervised.train()(images)
    assert torch.equal(out, logits(network, images))
    assert [tuple(layer.shape) for layer in of_layers] == [(3, 5, 10)] * len(lif_spikes(network, images))
    assert all((layer == 0).all() for layer in of_layers), "they begin with zeros"


def test_a_classifier_sees_the_means_of_its_own_layer(images):
    torch.manual_seed(0)
    network = build(VGG)
    supervised = DeeplySupervised(network, images)
    (first, spikes), *_ = lif_spikes(network.train(), images).items()
    torch.nn.init.ones_(supervised.classifiers[0].weight)
    quarters = spikes.float().unflatten(-1, (2, -1)).unflatten(-3, (2, -1)).mean((-3, -1))
    of_first = supervised.train()(images)[1][0]
    assert spikes.any(), first
    torch.testing.assert_close(of_first, quarters.sum((2, 3, 4))[..., None].expand_as(of_first))


def test_image_sizes_may_change(images):
    small = DeeplySupervised(build(replace(VGG, image_size=4)), images[..., :4, :4])
    large = DeeplySupervised(build(VGG), images)
    large.classifiers.load_state_dict(small.classifiers.state_dict())
    assert len(large.classifiers) == 4


def test_construction_leaves_statistics_and_random_numbers_alone(images):
    network = build(VGG)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    DeeplySupervised(network, images)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_first_layer_hears_of_its_own_loss(images, labels):
    """Even if the last layer passes nothing back."""
    torch.manual_seed(0)
    network = build(VGG)
    with torch.no_grad():
        network.classifier.weight.zero_()
    supervised = DeeplySupervised(network, images)
    torch.nn.init.normal_(supervised.classifiers[0].weight)
    out, of_layers = supervised.train()(images)
    mean_cross_entropy(out, labels).backward(retain_graph=True)
    first = next(network.parameters())
    assert (first.grad == 0).all()
    mean_cross_entropy(of_layers[0], labels).backward()
    assert (first.grad != 0).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_its_state_goes_on_in_the_same_bits(optimizer, images, labels, quick_settings):
    settings = quick_settings(deep_supervision=0.5, optimizer=optimizer, lr=0.01)

    def state():
        torch.manual_seed(0)
        network = build(VGG)
        return TrainingState(network, dense_masks(network), settings, Group(), (1, 8, 8))

    def train(one, steps):
        for _ in range(steps):
            one.step(images, labels, EpochMean.empty(torch.device("cpu")), share=1.0)
        return one

    whole, begun = train(state(), 4), train(state(), 2)
    resumed = state()
    resumed.load(begun.state())
    train(resumed, 2)
    assert all(torch.equal(tensor, whole.weights()[name]) for name, tensor in resumed.weights().items())
    heads = resumed.state()["classifiers"]
    assert all(torch.equal(tensor, heads[name]) for name, tensor in whole.state()["classifiers"].items())
    assert any((tensor != 0).any() for tensor in heads.values()), "the classifiers learn"
