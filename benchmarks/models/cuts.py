"""The tickets that are timed: the paper's networks at its sparsities, trained (assets.py) or pruned at initialisation.

A network pruned at initialisation is what `snn-search oneshot --epochs 0` finds: its initial weights are pruned once by
global magnitude, and batch norm is calibrated on training images. VGG16's layers then have the densities that such a
pruning gives (at 98.13%: 36% in early layers, 0.9% in late ones). Layers with smaller initial weights than VGG16's
convolutions (VGG16's classifier, 15 of ResNet19's 22 weights) would lose all of them. They are initialised anew first,
Kaiming normal by fan_out (convolutions) or fan_in (Linear); with `--init plain` they are not, and empty layers are
timed. In these networks 7% of the neurons fire per timestep, in trained ones several times as many.

A ticket is kept in a folder of its own and is not made again (remove the folder after a change of this module). The
folder has the sparse model file, and an archive of the images that are timed and the float64 oracle's logits of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.models.assets import load_trained, trained
from spiketicket.data import Dataset, Normalisation, Split, load_dataset
from spiketicket.errors import DataError, InputError
from spiketicket.export.torch.trace import trace
from spiketicket.files import write_atomic
from spiketicket.graph import Graph
from spiketicket.model.names import INPUT, LOGITS_T
from spiketicket.model.reader import read_model
from spiketicket.model.writer import to_onnx
from spiketicket.runtime import Session
from spiketicket.runtime.inputs import dataset_inputs
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.loop import calibrate
from spiketicket.train.networks.models import build, logits, prunable
from spiketicket.train.pruning import masks
from spiketicket.train.pruning.strategies import magnitude_masks
from spiketicket.train.search.plan import plan_stages
from spiketicket.train.search.search import model_config
from spiketicket.train.search.settings import SearchSettings

Floats = NDArray[np.float32]

TIMESTEPS = 5  # the logits of a shorter run are the first of a longer one
IMAGES = 32
ORACLE_BATCH = 4  # the oracle keeps every value of a batch in float64
SYNTHETIC = "synthetic images"
TRAINED = "trained"
INITS = (TRAINED, "kaiming", "plain")


@dataclass(frozen=True)
class TicketSpec:
    """Specification of a ticket.

    `sparsity` is the paper's p in percent. `init` is one of INITS; an empty one means "trained" where there is such a
    ticket, else "kaiming". `beta` is the bias of batch norm where initial weights are pruned. Raises InputError if
    `init` is unknown, or `beta` is given for a trained ticket.
    """

    arch: str
    sparsity: float
    init: str = ""
    beta: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.init:
            known = (self.arch, self.sparsity) in trained() and not self.beta
            object.__setattr__(self, "init", TRAINED if known else "kaiming")
        if self.init not in INITS:
            raise InputError(f"init: expected one of {', '.join(INITS)}, got {self.init!r}")
        if self.init == TRAINED and self.beta:
            raise InputError(f"beta: expected 0 for trained tickets, got {self.beta:g}")

    def name(self, dataset: str) -> str:
        """Return the name of the ticket's folder."""
        parts = [*asdict(self).values(), dataset]
        return "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)


@dataclass(frozen=True, eq=False)
class TimedTicket:
    """A ticket as a model file, the images that are timed, and the oracle's logits of these images."""

    spec: TicketSpec
    path: Path  # of the sparse model file
    images: Floats  # [IMAGES, C, H, W], normalised
    source: str  # the origin of the images, in words
    oracle: Floats  # logits [TIMESTEPS, IMAGES, classes]

    @cached_property
    def graph(self) -> Graph:
        """The sparse graph in the model file."""
        return read_model(self.path)[0]

    @property
    def test_accuracy(self) -> float | None:
        """The share of test images that are classified correctly; None if the ticket is not trained."""
        with Session(self.path, engine="reference") as session:
            stored = session.metadata.get("test_accuracy")
        return None if stored is None else float(stored)

    def facts(self) -> dict[str, Any]:
        """Return density, weights and multiply-accumulates of every layer and the firing rate of every LIF."""
        rates = firing_rates(self)
        graph = self.graph
        layers = [
            {
                "name": node.name,
                "shape": list(node.weight.shape),
                "density": node.weight.density,
                "macs": graph.macs(node),
                "dense_macs": graph.macs(node, dense=True),
            }
            for node in graph.weighted()
        ]
        timed = [node for node in graph.weighted() if graph.values[node.inputs[0]].timed]
        return {
            **asdict(self.spec),
            "test_accuracy": self.test_accuracy,
            "megabytes": self.path.stat().st_size / 1e6,
            "mac_density": sum(map(graph.macs, timed)) / sum(graph.macs(node, dense=True) for node in timed),
            "firing_rate": rates.overall,
            "silent_neurons": rates.silent,
            "layers": layers,
            "firing_rates": rates.layers,
            "dead_layers": [node.name for node in graph.weighted() if not node.weight.nnz],
        }


@dataclass(frozen=True)
class FiringRates:
    """Mean spikes per neuron and timestep, and the share of neurons that never fire, over the timed images."""

    overall: float
    silent: float
    layers: dict[str, float]


def firing_rates(ticket: TimedTicket, images: int = 8) -> FiringRates:
    """Measure the firing rates of a ticket on the first of its images."""
    with Session(ticket.path, engine="onnxruntime") as session:
        spikes = session.spikes({INPUT: ticket.images[:images]})
    return count_spikes(spikes)


def count_spikes(spikes: Mapping[str, NDArray[np.uint8]]) -> FiringRates:
    """Return the firing rates of spikes `[T, N, ...]`, which are given by layer."""
    total = sum(s.size for s in spikes.values())
    neurons = sum(s[0].size for s in spikes.values())
    return FiringRates(
        float(sum(s.sum(dtype=np.int64) for s in spikes.values()) / total),
        float(sum((~s.any(axis=0)).sum() for s in spikes.values()) / neurons),
        {name: float(s.mean()) for name, s in spikes.items()},
    )


def make_ticket(spec: TicketSpec, dataset: Dataset, folder: Path) -> TimedTicket:
    """Return the ticket of `spec` from its folder in `folder`; it is made if it is not there yet."""
    base = folder / spec.name(dataset.name.replace(" ", "_"))
    path, archive = base / "model.onnx", base / "oracle.npz"
    images = dataset.normalisation(dataset.test.images[:IMAGES])
    source = f"{dataset.name}, test images" if dataset.name != SYNTHETIC else SYNTHETIC
    if not path.exists():
        archive.unlink(missing_ok=True)
        ticket = load_trained(spec.arch, spec.sparsity) if spec.init == TRAINED else None
        network = ticket.network() if ticket else pruned_network(spec, dataset)
        names = {"arch": spec.arch, "dataset": dataset.name}
        if ticket:
            names["test_accuracy"] = f"{ticket.search['test_accuracy']:.6f}"
        graph = trace(network, dataset.image_shape, network.repeat.timesteps, metadata=names)
        write_atomic(path, to_onnx(graph).SerializeToString(deterministic=True))
    if archive.exists():
        with np.load(archive) as arrays:
            if np.array_equal(arrays["images"], images):
                return TimedTicket(spec, path, images, source, arrays["oracle"])
    oracle = oracle_logits(path, images)
    partial = base / "partial.npz"
    np.savez(partial, images=images, oracle=oracle)
    partial.replace(archive)
    return TimedTicket(spec, path, images, source, oracle)


def read_ticket(path: Path, data: Path) -> TimedTicket:
    """Read an exported ticket, and images of the data set that it was trained on.

    Raises InputError if the file does not name its network, data set and sparsity, ModelError if it cannot be read, and
    DataError if the data set cannot.
    """
    with Session(path, engine="reference") as session:
        about = session.metadata
        if not {"arch", "dataset", "sparsity"} <= set(about):
            raise InputError(
                f"{path} does not name its network, data set and sparsity: expected a ticket exported by snn-export"
            )
        dataset = load_dataset(about["dataset"], data)
        images = dataset_inputs(session, dataset, "test")[:IMAGES]
    spec = TicketSpec(about["arch"], round(100 * float(about["sparsity"]), 2))
    return TimedTicket(spec, path, images, f"{dataset.name}, test images", oracle_logits(path, images))


def pruned_network(spec: TicketSpec, dataset: Dataset) -> nn.Module:
    """Build the network that `oneshot --epochs 0` would find, with the `init` and `beta` of `spec`."""
    settings = SearchSettings(
        "oneshot",
        spec.arch,
        dataset.name,
        TIMESTEPS,
        sparsity=spec.sparsity,
        epochs=0,
        rewind_epoch=0,
        seed=spec.seed,
    )
    torch.manual_seed(spec.seed)
    network = build(model_config(settings, dataset))
    if spec.init == "kaiming":
        draw_weights_anew(network, convolutions=spec.arch == "resnet19")
    weights = prunable(network)
    sizes = sum(weight.numel() for weight in weights.values())
    (stage,) = plan_stages(settings, sizes, sum(parameter.numel() for parameter in network.parameters()))
    masks.apply_masks(network, magnitude_masks(weights, masks.dense_masks(network), stage.keep))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, spec.beta)
    calibrate(network, Batches(dataset), settings.batch_size, np.random.SeedSequence([spec.seed, 0, 0]))
    if spec.init == "kaiming":
        scale_hidden_layers(network.eval(), torch.from_numpy(dataset.normalisation(dataset.train.images[:IMAGES])))
    return network.eval()


def draw_weights_anew(network: nn.Module, *, convolutions: bool) -> None:
    """Initialise the weights of Linear layers anew; those of convolutions, too, if `convolutions` is set."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d) and convolutions:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@torch.no_grad()
def scale_hidden_layers(network: nn.Module, images: Tensor) -> None:
    """Scale the weights of hidden Linear layers so that their currents have unit variance.

    No batch norm does this for them, and ResNet19's hidden layer would never fire.
    """
    *hidden, _ = (module for module in network.modules() if isinstance(module, nn.Linear))
    for module in hidden:
        currents: list[Tensor] = []
        hook = module.register_forward_hook(lambda _module, _inputs, out, seen=currents: seen.append(out))
        logits(network, images)
        hook.remove()
        module.weight /= currents[0].std()


def oracle_logits(path: Path, images: Floats) -> Floats:
    """Return the logits `[T, N, classes]` of the float64 reference engine."""
    with Session(path, engine="reference") as session:
        parts = [
            session.run({INPUT: images[start : start + ORACLE_BATCH]}, TIMESTEPS)[LOGITS_T]
            for start in range(0, len(images), ORACLE_BATCH)
        ]
    return np.concatenate(parts, axis=1)


def load_images(folder: Path) -> Dataset:
    """Load CIFAR-10 from `folder`; if it is not there, make random images of the same shape, mean and variance."""
    try:
        return load_dataset("cifar10", folder)
    except DataError:
        return synthetic_images()


def synthetic_images(count: int = 600) -> Dataset:
    """Make random images whose neighbouring pixels and colours correlate roughly as those of CIFAR-10 do.

    Each is a grid of 8 x 8 blocks, whose colours are nearly grey.
    """
    rng = np.random.default_rng(0)
    mean, std = (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)
    grey, colour = rng.standard_normal((count, 1, 8, 8)), rng.standard_normal((count, 3, 8, 8))
    smooth = (np.sqrt(0.9) * grey + np.sqrt(0.1) * colour).repeat(4, axis=2).repeat(4, axis=3)
    scaled = smooth * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
    pixels = np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)
    split = Split(pixels, rng.integers(0, 10, count))
    class_names = tuple(str(label) for label in range(10))
    return Dataset(SYNTHETIC, split, split, class_names, Normalisation(255.0, mean, std))
