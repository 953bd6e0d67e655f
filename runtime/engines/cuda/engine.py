"""Engine `cuda`: the network on an NVIDIA GPU, through CuPy."""

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from spiketicket.runtime.engine import (
    AUTO,
    Engine,
    Floats,
    KernelChoice,
    Model,
    Options,
    Spikes,
    Trace,
    count_images,
    names_by_lif_output,
)
from spiketicket.runtime.engines.cuda.choice import KERNELS, asked, fastest
from spiketicket.runtime.engines.cuda.device import load_cupy
from spiketicket.runtime.engines.cuda.fusion import Fused, fuse
from spiketicket.runtime.engines.cuda.kernels import MOST_TIMESTEPS
from spiketicket.runtime.engines.cuda.program import Choice, Program
from spiketicket.runtime.engines.cuda.store import Store

KEPT = 8  # programs of other T or batch


class CudaEngine(Engine):
    """The engine on an NVIDIA GPU.

    A program is made for every T and number of images that is asked for: its kernels are compiled (CuPy keeps them on
    disk), those that suit a layer are measured (`plan` auto), and all launches become one CUDA graph.
    """

    name = "cuda"
    kernels = KERNELS
    values = ("float32", "float16")
    needs_gpu = True
    package = "cupy", "gpu"
    times_layers = True

    def __init__(self, model: Model, options: Options) -> None:
        self.graph, self.options = model.graph, options
        self.cupy = load_cupy("engine cuda")
        self.fused = fuse(self.graph)
        self.store = Store(self.cupy, parts=1 if options.values == "float16" else 2)
        self.device = self.cupy.cuda.Device()
        with self.device:
            self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.lock = Lock()  # programs own their buffers
        self.programs: dict[tuple[int, int, bool], Program] = {}
        self.choices: dict[str, Choice] = {}  # those of the program that was made last
        images = self.graph.batch or 1
        self.program(min(self.graph.timesteps, MOST_TIMESTEPS), images, self.graph.timesteps > MOST_TIMESTEPS)

    def run(self, x: Floats, timesteps: int) -> Floats:
        return np.concatenate(list(self._pieces(x, _lengths(timesteps))))

    def steps(self, x: Floats, timesteps: int) -> Iterator[Floats]:
        pieces = self._pieces(np.array(x), [1] * timesteps)  # a copy: the caller may change x before asking for a step
        return (logits[0] for logits in pieces)

    def trace(self, x: Floats, timesteps: int) -> Trace:
        return Trace(self._spikes(x, timesteps), self.run(x, timesteps))

    def _spikes(self, x: Floats, timesteps: int) -> dict[str, Spikes]:
        """Return the spikes of every LIF layer. Neurons whose spikes only a pooling reads are computed apart from it
        here, by the same kernels as in a run.
        """
        fused = fuse(self.graph, pooling=False)
        found: dict[str, list[Spikes]] = {name: [] for name in names_by_lif_output(self.graph).values()}
        lengths = _lengths(timesteps)
        made: dict[int, Program] = {}
        state: dict[str, Any] = {}
        for number, (length, part) in enumerate(zip(lengths, self._parts(x, lengths), strict=True)):
            with self.lock, self.device, self.stream:
                if length not in made:
                    choices = self.program(length, count_images(self.graph, x), len(lengths) > 1).choices
                    made[length] = self._made(fused, length, count_images(self.graph, x), len(lengths) > 1, choices)
                program = made[length]
                self._run(program, part, number, state)
                for value, name in names_by_lif_output(self.graph).items():
                    spikes = program.spikes(value)
                    found[name].append(spikes.reshape(*spikes.shape[:2], *self.graph.values[value].shape))
        return {name: np.concatenate(spikes) for name, spikes in found.items()}

    def time_layers(self, x: Floats, timesteps: int) -> dict[str, float]:
        """Time the layers with CUDA events between the kernels, which are launched one by one.

        Copies to and from the GPU count for the first and the last layer.
        """
        seconds: dict[str, float] = {}
        lengths = _lengths(timesteps)
        for length, part in zip(lengths, self._parts(x, lengths), strict=True):
            with self.lock, self.device, self.stream:
                program = self.program(length, count_images(self.graph, x), len(lengths) > 1)
                for name, taken in program.timed(part, self.stream):
                    seconds[name] = seconds.get(name, 0.0) + taken
        first, last = self.fused.ops[0].parts[0], self.fused.ops[-1].parts[0]
        for copied, name in (("input", first), ("logits", last)):
            seconds[name] += seconds.pop(copied)
        return seconds

    def plan(self) -> dict[str, KernelChoice]:
        plans: dict[str, KernelChoice] = {}
        for node in self.graph.nodes:
            plans[node.name] = KernelChoice("none", "the same numbers in another shape")
        for op in self.fused.ops:
            choice = self.choices.get(op.parts[0])
            own = KernelChoice("pointwise", "no weights")
            if choice is not None:
                own = KernelChoice(choice.kernel, choice.why, nbytes=choice.nbytes)
            first, *others = op.parts
            plans[first] = own
            plans |= {name: KernelChoice("none", f"part of {first}", part_of=first) for name in others}
        return plans

    def close(self) -> None:
        with self.lock:
            self.programs.clear()

    def _pieces(self, x: Floats, lengths: list[int]) -> Iterator[Floats]:
        """Yield the logits of each piece of a run, which is computed when it is asked for."""
        state: dict[str, Any] = {}
        for number, (length, part) in enumerate(zip(lengths, self._parts(x, lengths), strict=True)):
            with self.lock:
                program = self.program(length, count_images(self.graph, x), len(lengths) > 1)
                logits = self._run(program, part, number, state)
            yield logits

    def _run(self, program: Program, x: Floats, number: int, state: dict[str, Any]) -> Floats:
        """Run the piece `number` of a run, whose membrane potentials `state` carries from program to program."""
        with self.device, self.stream:  # CuPy's present device and stream are those of the thread
            if number:
                program.restore(state)
            logits = program.run(x, self.stream, resumes=number > 0)
            state |= program.saved()
        return logits

    def _parts(self, x: Floats, lengths: list[int]) -> Iterator[Floats]:
        """Yield the input of each piece: all of it or, with a timed input, the frames of the piece."""
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            yield x[end - length : end] if self.graph.timed_input else x

    def program(self, timesteps: int, images: int, state: bool = False) -> Program:
        """Return the program for a launch of so many timesteps (8 at most) and images, made when first asked for.

        `state` says whether the launch is one of several of a run. Must not be called while another thread runs.
        """
        key = timesteps, images, state
        if key not in self.programs:
            while len(self.programs) >= KEPT:
                self.programs.pop(next(iter(self.programs)))
            self.programs[key] = self._made(self.fused, timesteps, images, state)
        return self.programs[key]

    def _made(
        self, fused: Fused, timesteps: int, images: int, state: bool, choices: dict[str, Choice] | None = None
    ) -> Program:
        with self.device, self.stream:
            program = Program(fused, self.store, timesteps, images, state=state)
            program.load()
            if choices is None:
                choose = fastest if self.options.plan == AUTO else asked
                self.choices = choices = choose(program, self.stream, self.options.plan)
            program.choices = choices
            program.capture(self.stream)
        return program


def _lengths(timesteps: int) -> list[int]:
    """Return the timesteps of each launch of a run: at most two different numbers, so that few programs are needed."""
    count = -(-timesteps // MOST_TIMESTEPS)
    short, longer = divmod(timesteps, count)
    return [short + 1] * longer + [short] * (count - longer)
