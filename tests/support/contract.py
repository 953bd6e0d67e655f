"""All engines, instruction sets and kernels, and their comparison with the oracle."""

from hashlib import sha256

from spiketicket.export.check.agreement import compare
from spiketicket.runtime import Session
from spiketicket.runtime.engine import AUTO, FIXED
from spiketicket.runtime.engines.native.engine import build_info
from spiketicket.runtime.engines.native.planner import KERNELS

ISAS = build_info()["isas"].split(", ")
BEST_ISA = ISAS[0]
EXACT = [kernel for kernel in KERNELS if kernel != "events-int16"]
RIVALS = [("native", isa, plan) for isa in ISAS for plan in EXACT] + [("native", "", AUTO), ("onnxruntime", "", AUTO)]


def trace(path, engine, x, timesteps, threads=None):
    """Return the trace of the file `path` by an engine, which is a name or a pair of name and plan."""
    name, plan = engine if isinstance(engine, tuple) else (engine, FIXED)
    with Session(path, engine=name, threads=threads, plan=plan) as session:
        return session.trace({"input": x}, timesteps)


ORACLES = {}  # traces by file, input and T: all engines are compared with the same one


def oracle_of(path, x, timesteps):
    """Return the oracle's trace of the file `path`, computed once for all tests that ask for the same."""
    key = sha256(path.read_bytes()).digest(), x.shape, sha256(x.tobytes()).digest(), timesteps
    if key not in ORACLES:
        ORACLES[key] = trace(path, "reference", x, timesteps)
    return ORACLES[key]


def assert_agrees(path, engine, x, timesteps, threads=None):
    """Assert that an engine's spikes and logits of a file agree with the oracle's."""
    got = trace(path, engine, x, timesteps, threads)
    agreement = compare(str(engine), got, "reference", oracle_of(path, x, timesteps))
    agreement.require_exact()
    assert agreement.top1 == 1.0 or agreement.clean < agreement.images
