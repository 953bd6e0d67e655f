"""Lottery tickets of spiking neural networks: search, export, run, profile.

The stages are `spiketicket.train`, `spiketicket.export`, `spiketicket.runtime` and
`spiketicket.profiling`; each imports only what it needs, so that running a model needs no torch.
"""

from importlib.metadata import version

from spiketicket import _moved

_moved.install()
__version__ = version("spiketicket")
