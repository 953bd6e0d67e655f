"""An iteration of training as one CUDA graph: forward, loss, backward, optimiser, masks. It has not run on a GPU."""

from collections.abc import Callable, Hashable
from typing import ClassVar
from warnings import warn

import torch
from torch import Tensor

Iterate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Graphed:
    """A CUDA graph of `iterate(images, labels)`: called the first time, captured the second time, then replayed.

    All that `iterate` reads, except images and labels, must stay where it is in memory, and all numbers that change
    must be on the GPU. A graph is for images of one shape; others are computed without it. So is everything after a
    capture has failed, with a warning.
    """

    failed: ClassVar[list[object]] = []  # what failed captures leave: torch's allocator may still refer to it

    before: Hashable  # shape and type of the last call's images
    form: Hashable  # those of the graph's
    replay: Iterate | None

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.forget()

    def __call__(self, iterate: Iterate, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `iterate` does, valid until the next call.

        `iterate` is not kept, for its owner may refer to this object.
        """
        before, self.before = self.before, (images.shape, images.dtype)
        if before == self.before != self.form and not self.failed:
            self._capture(iterate, images, labels)
        if self.replay is None or self.before != self.form:
            return self._as_it_is(iterate, images, labels)
        return self.replay(images, labels)

    def forget(self) -> None:
        """Forget the graph, because what it reads is elsewhere in memory from now on."""
        self.before = self.form = self.replay = None

    def _as_it_is(self, iterate: Iterate, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run without a graph, on the stream of captures: gradients are accumulated on the stream where they began."""
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            results = iterate(images, labels)
        here.wait_stream(self.stream)
        return results

    def _capture(self, iterate: Iterate, images: Tensor, labels: Tensor) -> None:
        """Capture without computing. The old graph is freed first, for the new one to reuse its memory."""
        self.form = self.replay = None
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        try:
            self.replay = self._captured(graph, iterate, images.clone(), labels.clone())
        except RuntimeError as error:
            torch.cuda.set_stream(here)  # torch leaves the capture's where ending it fails
            self.failed.append(graph)
            warn(f"iterations run without a CUDA graph, which could not be captured: {_cause(error)}", stacklevel=3)
        else:
            self.form = self.before

    def _captured(self, graph: torch.cuda.CUDAGraph, iterate: Iterate, images: Tensor, labels: Tensor) -> Iterate:
        """Return a function that copies a batch to `images` and `labels`, where the graph reads it, and replays."""
        with torch.cuda.graph(graph, stream=self.stream):
            results = iterate(images, labels)

        def replay(new_images: Tensor, new_labels: Tensor) -> tuple[Tensor, Tensor]:
            images.copy_(new_images)
            labels.copy_(new_labels)
            graph.replay()
            return results

        return replay


def _cause(error: BaseException) -> str:
    """Return the first line of the first error: ending a capture fails, too, if something in it has."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
