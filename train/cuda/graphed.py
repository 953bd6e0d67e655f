"""An iteration of training as one CUDA graph: forward, loss, backward, optimiser, masks. It has not run on a GPU."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from spiketicket.errors import InputError
from spiketicket.train.loop import Tally, Trainee

WARM_UP = 2  # iterations before a capture, in which libraries choose their algorithms


class GraphedStep:
    """`Trainee.step` for batches of one size. The first iteration of an optimiser runs as it is, because momentum
    begins in it; the next is captured, and those behind it are replayed.

    The learning rate is part of the graph: after `set_learning_rate` make another. Raises InputError for float16, whose
    scaler decides on the CPU, and for training on several processes.
    """

    def __init__(self, trainee: Trainee) -> None:
        if trainee.dtype == torch.float16 or trainee.group.world > 1:
            raise InputError("a graphed step takes float32 or bfloat16 on one process: float16's scaler asks the CPU")
        self.trainee = trainee
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.share = 0.0
        self.tally = Tally.empty(trainee.group.device)
        self.replay: Callable[[], None] | None = None

    def __call__(self, images: Tensor, labels: Tensor, tally: Tally, share: float) -> None:
        """As `Trainee.step`. Raises InputError for a batch of another shape, or another share, than the first."""
        if not self.trainee.optimiser.state:
            self.trainee.step(images, labels, tally, share)
            return
        if self.inputs is None:
            self.inputs, self.share = (images.clone(), labels.clone()), share
        if [x.shape for x in self.inputs] != [images.shape, labels.shape] or share != self.share:
            expected = f"{list(self.inputs[0].shape)} and the share {self.share:g}"
            raise InputError(f"a graphed step takes batches of {expected}, got {list(images.shape)} and {share:g}")
        self.inputs[0].copy_(images)
        self.inputs[1].copy_(labels)
        if self.replay is None:
            before = deepcopy(self.trainee.state())  # the optimiser's part of it is no copy
            self.replay = captured(self._iterate, lambda: self.trainee.load(before))
        self.replay()
        tally.loss += self.tally.loss
        tally.correct += self.tally.correct
        tally.seen += len(labels)

    def _iterate(self) -> None:
        assert self.inputs is not None
        self.tally.loss.zero_()
        self.tally.correct.zero_()
        self.trainee.step(*self.inputs, self.tally, self.share)


def captured(run: Callable[[], None], restore: Callable[[], None]) -> Callable[[], None]:
    """What replays `run`. It runs a few times before; `restore` undoes what that has changed. A capture itself computes
    nothing."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    restore()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay
