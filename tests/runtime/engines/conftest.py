"""A fixture that several files share."""

import pytest

from tests.support.contract import BEST_ISA, RIVALS

# The fast tier runs every kernel on the best instruction set of this machine.
PARAMETERS = [
    pytest.param(
        rival, id="-".join(filter(None, rival)), marks=pytest.mark.isa if rival[1] not in ("", BEST_ISA) else ()
    )
    for rival in RIVALS
]


@pytest.fixture(params=PARAMETERS)
def engine(request, monkeypatch):
    """Every instruction set with every kernel, the kernels that a measurement chooses, onnxruntime: (name, plan)."""
    name, isa, plan = request.param
    monkeypatch.setenv("SPIKETICKET_ISA", isa)
    return name, plan
