"""The neuron's factors as engines compute it: per timestep, from the potential w above rest,

h = keep w + gain x,   s = h >= level,   w = (1 - s) h or, with a soft reset, h - s drop
"""

from typing import NamedTuple

import numpy as np

from spiketicket.graph import Li, Lif


class Rates(NamedTuple):
    """Rounded as the operator's ONNX body rounds. Of an integrator, which never fires, `level` and `drop` are 0."""

    keep: float
    gain: float
    level: float = 0.0
    drop: float = 0.0


def rates(node: Lif | Li) -> Rates:
    """An infinite tau keeps all of the potential."""
    one = np.float32(1)
    rate = one / np.float32(node.tau)
    keep, gain = float(one - rate), float(rate if node.decay_input else one)
    if isinstance(node, Li):
        return Rates(keep, gain)
    level = np.float32(node.v_threshold) - np.float32(node.rest)
    return Rates(keep, gain, float(level), float(np.float32(node.drop)))
