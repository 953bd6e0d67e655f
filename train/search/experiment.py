"""What a search works on: its network, images and plan. All of it is checked before a run folder is touched."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from spiketicket.data import Dataset, Split
from spiketicket.errors import InputError
from spiketicket.train.history.events import StageRecord
from spiketicket.train.loop.batches import Batches
from spiketicket.train.loop.loop import Weights, weights_of
from spiketicket.train.networks.config import ModelConfig
from spiketicket.train.networks.models import build
from spiketicket.train.pruning.masks import Masks, dense_masks, survivors
from spiketicket.train.search.phases import format_phases, phases_from
from spiketicket.train.search.plan import Stage, plan_stages
from spiketicket.train.search.settings import SearchSettings
from spiketicket.train.search.ticket import Ticket, build_meta


@dataclass(frozen=True)
class Start:
    """What a search begins with instead of a freshly initialised dense network: a ticket, or its mask alone."""

    ticket: Ticket
    mask_only: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies it, for settings.json and the tickets."""
        return {"fingerprint": self.ticket.fingerprint, "mask_only": self.mask_only}


@dataclass(frozen=True)
class Experiment:
    """A search before anything is trained. `weights` and `masks` are what its first training begins with."""

    settings: SearchSettings
    dataset: Dataset
    config: ModelConfig
    weights: Weights
    masks: Masks
    parameters: int
    stages: tuple[Stage, ...]
    training_split: Split
    validation: Split | None
    batches: Batches
    start: Start | None

    def identity(self) -> dict[str, Any]:
        """Return what a search depends on beside its settings, for settings.json."""
        return {"data": self.dataset.fingerprint(), **({"start": self.start.to_dict()} if self.start else {})}

    def outline(self, search_timesteps: int) -> tuple[StageRecord, ...]:
        """Return the plan as the log has it, if trainings of the search run `search_timesteps` timesteps."""
        weights = sum(mask.size for mask in self.masks.values())
        return tuple(
            StageRecord(
                round=stage.round,
                kind=stage.kind,
                epochs=stage.end - stage.first_epoch,
                timesteps=search_timesteps if stage.kind == "search" else self.settings.timesteps,
                phases=format_phases(phases_from(stage.phases, stage.first_epoch)),
                image_size=self.config.image_size,
                sparsity=(weights - stage.keep) / self.parameters,
            )
            for stage in self.stages
        )


def prepare(settings: SearchSettings, dataset: Dataset, device: torch.device, start: Start | None = None) -> Experiment:
    """Build the network, plan the trainings and put the images on `device`.

    Raises InputError if settings, data set and start do not fit together.
    """
    config = model_config(settings, dataset)
    torch.manual_seed(settings.seed)
    model = build(config)
    _check_image_sizes(settings, config, model)
    weights, masks = weights_of(model), dense_masks(model)
    prunable = sum(mask.size for mask in masks.values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if start is not None:
        _check_start(start, config)
        masks = start.ticket.masks
        weights = weights if start.mask_only else start.ticket.state
    stages = plan_stages(settings, prunable, parameters, survivors(masks))
    if settings.cutout is not None:
        dataset = replace(dataset, augmentation=replace(dataset.augmentation, cutout=settings.cutout))
    training_set, validation = dataset, None
    if settings.validation:
        training_set, validation = dataset.hold_out(settings.validation, settings.seed)
    batches = Batches(training_set, device, *([] if validation is None else [validation]))
    return Experiment(
        settings,
        dataset,
        config,
        weights,
        masks,
        parameters,
        tuple(stages),
        training_set.train,
        validation,
        batches,
        start,
    )


def model_config(settings: SearchSettings, dataset: Dataset) -> ModelConfig:
    """Return the configuration of the network of `settings` for the images of `dataset`."""
    channels, height, _ = dataset.image_shape
    return ModelConfig(
        arch=settings.arch,
        in_channels=channels,
        image_size=height,
        num_classes=len(dataset.classes),
        timesteps=settings.timesteps,
        width=settings.width,
        batch_norm=settings.batch_norm,
    )


def _check_image_sizes(settings: SearchSettings, config: ModelConfig, model: nn.Module) -> None:
    """Raise InputError if the network of a phase with smaller images has other tensors than `model`."""
    full = config.image_size
    for phase in (*settings.training_phases(), *settings.final_training_phases()):
        size = phase.image_size or full
        if size > full:
            raise InputError(f"phases: expected images of at most {full}x{full} pixels, got {size}x{size}")
        smaller = build_meta(replace(config, image_size=size))
        shapes, its = ({n: t.shape for n, t in m.state_dict().items()} for m in (model, smaller))
        odd = [name for name in shapes if its.get(name) != shapes[name]]
        if odd:
            raise InputError(f"phases: {config.arch} cannot train on {size}x{size} pixels: {odd[0]} would differ")


def _check_start(start: Start, own: ModelConfig) -> None:
    its = start.ticket.model
    if replace(its, timesteps=own.timesteps) != own:
        names = [f.name for f in fields(own) if f.name != "timesteps" and getattr(own, f.name) != getattr(its, f.name)]
        raise InputError(
            f"the ticket to start from: expected a network with {names[0]} {getattr(own, names[0])}, its "
            f"{names[0]} is {getattr(its, names[0])}"
        )
