"""A fixture that several files share."""

import pytest
from contract import RIVALS


@pytest.fixture(params=RIVALS, ids=lambda p: "-".join(filter(None, p)))
def engine(request, monkeypatch):
    """Every instruction set with every kernel, the kernels that a measurement chooses, onnxruntime: (name, plan)."""
    name, isa, plan = request.param
    monkeypatch.setenv("SPIKETICKET_ISA", isa)
    return name, plan
