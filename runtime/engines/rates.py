"""The constants of a neuron as engines compute it, at every timestep from the potential w above rest:

h = keep w + gain x, s = h >= level, w = (1 - s) h or, with a soft reset, h - s drop
"""

from typing import NamedTuple

import numpy as np

from spiketicket.graph import Li, Lif


class Rates(NamedTuple):
    """The constants, rounded as the operator's ONNX body rounds. `level` and `drop` of an integrator, which never
    fires, are 0.
    """

    keep: float
    gain: float
    level: float = 0.0
    drop: float = 0.0


def rates(node: Lif | Li) -> Rates:
    """Return the constants of a neuron or integrator. With an infinite tau, all of the potential is kept."""
    one = np.float32(1)
    rate = one / np.float32(node.tau)
    keep, gain = float(one - rate), float(rate if node.decay_input else one)
    if isinstance(node, Li):
        return Rates(keep, gain)
    level = np.float32(node.v_threshold) - np.float32(node.rest)
    return Rates(keep, gain, float(level), float(np.float32(node.drop)))
