"""The log of a search as scalars for TensorBoard (`--tensorboard`)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spiketicket.errors import extra

# A field of an event -> its tag under the kind of training, search or final; what an event lacks is not written.
EPOCH_TAGS = {
    "loss": "loss",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "lr": "learning rate",
    "seconds": "seconds per epoch",
    "timesteps": "timesteps",
}
TICKET_TAGS = {
    "test_accuracy": "accuracy/test",
    "validation_accuracy": "accuracy/validation",
    "sparsity": "sparsity",
    "search_seconds": "search seconds",
}


class TensorBoard:
    """A writer of the events of a search to `folder`, for `tensorboard --logdir`.

    The global step counts finished epochs over all trainings, so it never falls; a ticket has the step of the epoch
    before it.

    `past` holds the events that the log of a resumed search has kept. They are written anew: first a mark that makes
    TensorBoard forget every point from step 0 on (`purge_step`), then all of them. So no point is there twice,
    none of an epoch that is trained again remains, and none is lost that a kill left in the writer's buffer (which
    holds two minutes; marking only the first new step would lose those). The older files stay, unread in effect.
    Raises MissingExtraError without the package tensorboard.
    """

    def __init__(self, folder: Path, past: Iterable[Mapping[str, Any]] = ()) -> None:
        with extra("tensorboard", "--tensorboard", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder), purge_step=0)
        self._epochs = 0
        for event in past:
            self.log(event)

    def log(self, event: Mapping[str, Any]) -> None:
        """Write the numbers of an epoch or a ticket; other events have none."""
        if event["event"] == "epoch":
            self._write(event, EPOCH_TAGS, event["kind"], self._epochs)
            self._epochs += 1
        elif event["event"] == "ticket":
            self._write(event, TICKET_TAGS, f"{event['kind']}/ticket", max(0, self._epochs - 1))

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Mapping[str, Any], tags: Mapping[str, str], prefix: str, step: int) -> None:
        for field, tag in tags.items():
            if event.get(field) is not None:
                self._writer.add_scalar(f"{prefix}/{tag}", event[field], step)
