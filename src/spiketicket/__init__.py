"""Lottery tickets of spiking neural networks: search, export, run, profile.

The stages live in `spiketicket.train`, `spiketicket.export`, `spiketicket.runtime` and
`spiketicket.profiling`; each imports only what it needs, so that running a model needs no torch.
"""

from importlib.metadata import version

__version__ = version("spiketicket")
