"""Choose the kernel of each layer of the native engine: by measurement on this machine, from the cache, or by estimate.

A measurement runs the network once, layer by layer on one thread, on an image of smooth noise (for a timed input, one
image per timestep), and times every kernel that suits a layer on the spikes that the layer gets. The choice is the same
for any number of timesteps, images and threads. Different kernels add in different orders, so that plans may differ in
the last bits of a sum; `fixed` plans are the same everywhere.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spiketicket import __version__
from spiketicket.errors import SpikeTicketError
from spiketicket.files import cache_folder, write_atomic
from spiketicket.runtime.engine import AUTO, BY_ESTIMATE, Floats, KernelChoice, Model, Options

if TYPE_CHECKING:
    from spiketicket.runtime.engines.native import _native

KERNELS = ("events", "events-int16", "sparse-events", "masks", "tables")
MOST_TIMESTEPS = 8  # timesteps of a measurement

Measured = dict[str, float]  # kernel -> milliseconds on one thread


def decide(
    network: "_native.Network", values: Mapping[str, int], model: Model, options: Options
) -> dict[str, KernelChoice]:
    """Choose a kernel for every layer of the C++ `network`, and return the choices by layer name, with reasons.

    `values` has the value id of each layer name. The plan is auto (the cached measurement, or a new one), fixed (by
    estimate), or the name of a kernel, for every layer that it suits.
    """
    plan = options.plan
    if plan in KERNELS:
        for value in values.values():
            fitting = [name for name in network.choices(value) if name.split("/")[0] == plan]
            if fitting:
                network.choose(value, fitting[0])
    if plan != AUTO:
        network.guess()
        network.planned()
        chosen = {name: network.chosen(value) for name, value in values.items()}
        return {
            name: KernelChoice(kernel, "asked for" if kernel.split("/")[0] == plan else BY_ESTIMATE)
            for name, kernel in chosen.items()
        }
    file = _cache_file(network.isa, model, options)
    measured = _read(file)
    known = len(measured) == len(values) and all(
        set(times) == set(network.choices(value)) for times, value in zip(measured, values.values(), strict=True)
    )
    if known:
        for times, value in zip(measured, values.values(), strict=True):
            network.choose(value, min(times, key=times.__getitem__))
    else:
        steps = min(model.graph.timesteps, MOST_TIMESTEPS)
        network.measure(noise_images(model.graph.input_shape, steps if model.graph.timed_input else 1), 1, steps)
        measured = [dict(network.measured(value)) for value in values.values()]
        _write(file, measured)
    network.planned()
    return {
        name: KernelChoice(network.chosen(value), _reason(times))
        for times, (name, value) in zip(measured, values.items(), strict=True)
    }


def _reason(measured: Measured) -> str:
    best, *others = sorted(measured, key=measured.__getitem__)
    against = ", ".join(f"{kernel} {measured[kernel]:.2g}" for kernel in others)
    return f"measured {measured[best]:.2g} ms" + (f" against {against}" if against else "")


def noise_images(shape: tuple[int, ...], frames: int = 1) -> Floats:
    """Return images `[frames, *shape]` of unit variance with the spectrum of photographs: noise at every scale."""
    rng = np.random.default_rng(0)
    images = np.zeros((frames, *shape))
    scales = [2**i for i in range(max(max(shape[1:], default=1), 2).bit_length() - 1)]
    for scale in scales:
        coarse = [frames, shape[0], *(-(-size // scale) for size in shape[1:])]
        noise = rng.standard_normal(coarse)
        for axis in range(2, images.ndim):
            noise = noise.repeat(scale, axis=axis)
        images += noise[tuple(slice(size) for size in images.shape)]
    return np.ascontiguousarray(images / np.sqrt(len(scales)), dtype=np.float32)


def _cache_file(isa: str, model: Model, options: Options) -> Path | None:
    """Return the file in which this plan is cached; None if the user has no home directory."""
    folder = cache_folder("plans")
    if folder is None:
        return None
    key = hashlib.sha256(model.data)
    key.update(f"{__version__} {isa} {options.values} {_cpu()}".encode())
    return folder / f"{key.hexdigest()[:32]}.json"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())


def _read(file: Path | None) -> list[Measured]:
    """Return the measurements in a cache file, layer by layer; none if the file is missing or damaged."""
    if file is None:
        return []
    try:
        return [{str(kernel): float(ms) for kernel, ms in times.items()} for times in json.loads(file.read_bytes())]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, OverflowError):
        return []


def _write(file: Path | None, measured: list[Measured]) -> None:
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(measured, indent=1).encode())
    except (OSError, SpikeTicketError):
        pass  # no cache, then: the next session measures again
