"""Measure an iteration of training on this device, by network and T: seconds, in parts, and peak memory.

The iterations are those of a search (train/loop/loop.py): a batch made and augmented on the device, forward, loss and
backward, the optimiser's step with its masks. All networks and T take turns in one process.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

from spiketicket.errors import InputError, SpikeTicketError, extra
from spiketicket.profiling.measure.clock import measure
from spiketicket.profiling.measure.machine import usable_cores
from spiketicket.profiling.measure.noise import Noise
from spiketicket.profiling.measure.timing import Timing
from spiketicket.profiling.search.noise_images import image_format, iterations_per_epoch, noise_dataset
from spiketicket.profiling.search.setup import IterationSetup

WARM_UP = {"cpu": 2, "cuda": 10}  # iterations: the first makes the optimiser's state, and GPUs choose algorithms
ITERATIONS = 6  # timed, on a CPU: the fewest whose median has a 95% interval
SECONDS = 1.0  # timed on a GPU


@dataclass(frozen=True)
class Cost:
    """The cost of one iteration. `peak` is the largest growth of memory in bytes, for weights, gradients, the
    optimiser's state and all that an iteration needs (None: not measured). On a GPU, parts are timed apart from
    `whole`, because waiting for each keeps them from overlapping.
    """

    setup: IterationSetup
    whole: Timing
    parts: dict[str, Timing]
    peak: int | None
    prunable: int
    parameters: int

    @property
    def seconds(self) -> float:
        return self.whole.median().value

    @property
    def sum_of_parts(self) -> Timing:
        """Return the sum of the parts, iteration by iteration."""
        iterations = zip(*(part.seconds for part in self.parts.values()), strict=True)
        return Timing(tuple((sum(seconds),) for seconds in iterations))

    @property
    def iterations_per_epoch(self) -> int:
        return iterations_per_epoch(image_format(self.setup.dataset).images, self.setup.batch)

    @property
    def seconds_per_epoch(self) -> float:
        return self.iterations_per_epoch * self.seconds

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.setup),
            "seconds_per_iteration": self.whole.to_dict(),
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "sum_of_parts": self.sum_of_parts.to_dict(),
            "iterations_per_epoch": self.iterations_per_epoch,
            "seconds_per_epoch": self.seconds_per_epoch,
            "peak_bytes": self.peak,
            "prunable": self.prunable,
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class SearchCost:
    """The costs of several networks and T. `device` is cpu, or a GPU as torch names it, with its name."""

    costs: dict[IterationSetup, Cost]
    device: str
    threads: int
    noise: Noise


def measure_search(
    setups: Iterable[IterationSetup],
    *,
    device: str = "auto",
    threads: int | None = None,
    iterations: int | None = None,
    duration: float | None = None,
    memory: Iterable[IterationSetup] = (),
    report: Callable[[str], None] = lambda _: None,
) -> SearchCost:
    """Time an iteration of each setup, and measure the peak memory of those in `memory`, each in a fresh process.

    The setups take turns. `iterations` is the number of timed ones per setup, or `duration` their seconds; the default
    is six iterations on a CPU, and one second on a GPU. `threads` are those of the CPU (None: all cores). `report` is
    called with what is being measured. Raises InputError, and MissingExtraError without torch.
    """
    setups = list(dict.fromkeys(setups))
    if iterations is not None and duration is not None:
        raise InputError("iterations, duration: expected one of the two, got both")
    if iterations is not None and iterations < 1:
        raise InputError(f"iterations: expected 1 or more, got {iterations}")
    if duration is not None and not duration > 0:
        raise InputError(f"duration: expected seconds above 0, got {duration}")
    threads = check_threads(threads)
    with extra("train", "snn-profile search"):
        import torch

        from spiketicket.profiling.search.iteration import Iteration, weights_of
        from spiketicket.train.loop.batches import Batches
        from spiketicket.train.loop.distributed import joined_group
    sizes = {setup: weights_of(setup) for setup in setups}  # refuses unknown networks before anything is measured
    threads_before = torch.get_num_threads()
    with joined_group(device) as group:
        peaks = {}
        for setup in dict.fromkeys(memory):
            report(f"memory of {setup.arch} at T = {setup.timesteps} ...")
            peaks[setup] = _peak_bytes(setup, group.device.type, threads)
        torch.set_num_threads(threads)
        try:
            batches = {name: Batches(noise_dataset(name), group.device) for name in {s.dataset for s in setups}}
            made = {setup: Iteration(setup, batches[setup.dataset], group) for setup in setups}
            runs: dict[tuple[IterationSetup, str], Callable[[], object]] = {}
            for setup, one in made.items():
                runs[setup, "parts"] = one.in_parts
                if not group.cpu:
                    runs[setup, "whole"] = one.whole
            warm_up = WARM_UP[group.device.type]
            if iterations is None and duration is None and group.cpu:
                iterations = ITERATIONS
            found = measure(
                _reported(runs, None if iterations is None else warm_up + iterations, report),
                iterations=iterations,
                duration=SECONDS if duration is None else duration,
                warmup=warm_up,
                lead=False,  # iterations note their parts themselves, of timed runs and others
            )
        finally:
            torch.set_num_threads(threads_before)
        name = "cpu" if group.cpu else f"{group.device}, {torch.cuda.get_device_name(group.device)}"
    costs = {
        setup: Cost(
            setup,
            found.timings[setup, "parts" if group.cpu else "whole"],
            {part: Timing(tuple((s,) for s in seconds[warm_up:])) for part, seconds in one.parts.items()},
            peaks.get(setup),
            *sizes[setup],
        )
        for setup, one in made.items()
    }
    return SearchCost(costs, name, threads, found.noise)


def check_threads(threads: int | None) -> int:
    """Return `threads`, or the number of all cores if it is None. Raises InputError for more threads than this process
    may use cores.
    """
    cores = usable_cores()
    if threads is not None and not 1 <= threads <= cores:
        raise InputError(f"threads: expected 1 to {cores}, as many as there are cores here, got {threads}")
    return threads or cores


def _reported(
    runs: dict[tuple[IterationSetup, str], Callable[[], object]], each: int | None, report: Callable[[str], None]
) -> dict[tuple[IterationSetup, str], Callable[[], object]]:
    """Return the same runs, each of which is reported before it begins."""
    number = count(1)
    total = "" if each is None else f" of {each * len(runs)}"

    def reported(run: Callable[[], object], what: str) -> object:
        report(f"iteration {next(number)}{total}: {what}")
        return run()

    return {key: partial(reported, run, f"{key[0].arch}, T = {key[0].timesteps}") for key, run in runs.items()}


def _peak_bytes(setup: IterationSetup, device: str, threads: int) -> int:
    command = [sys.executable, "-m", "spiketicket.profiling.search.iteration"]
    done = subprocess.run([*command, json.dumps(asdict(setup)), device, str(threads)], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SpikeTicketError(f"memory of {setup.arch} at T = {setup.timesteps}: {reason}")
    return int(done.stdout.strip().splitlines()[-1])
