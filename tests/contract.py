"""All engines, instruction sets and kernels, and how they are held against the oracle."""

from spiketicket.export.check.agreement import Trace, compare
from spiketicket.runtime import Session
from spiketicket.runtime.engines.native.engine import build_info
from spiketicket.runtime.planner import AUTO, FIXED, KERNELS

ISAS = build_info()["isas"].split(", ")
BEST_ISA = ISAS[0]
EXACT = [kernel for kernel in KERNELS if kernel != "events-int16"]
RIVALS = [("native", isa, plan) for isa in ISAS for plan in EXACT] + [("native", "", AUTO), ("onnxruntime", "", AUTO)]


def trace(path, engine, x, timesteps, threads=None):
    name, plan = engine if isinstance(engine, tuple) else (engine, FIXED)
    with Session(path, engine=name, threads=threads, plan=plan) as session:
        return Trace(session.spikes({"input": x}, timesteps), session.run({"input": x}, timesteps)["logits_t"])


def assert_agrees(path, engine, x, timesteps, threads=None):
    agreement = compare(
        str(engine),
        trace(path, engine, x, timesteps, threads),
        "reference",
        trace(path, "reference", x, timesteps),
    )
    agreement.require_exact()
    assert agreement.top1 == 1.0 or agreement.clean < agreement.images
