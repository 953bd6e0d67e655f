"""Inspection of TensorRT engine files. Needs neither TensorRT nor a GPU."""

from pathlib import Path

import onnx

from spiketicket.export.inspect.facts import Inspection, Port, onnx_provenance
from spiketicket.model.engine_file import VERSION, unpack
from spiketicket.model.names import INPUT, LOGITS, LOGITS_T, PRODUCER, TIMESTEPS
from spiketicket.model.reader import parse_model
from spiketicket.text import human_bytes


def inspect_engine(path: Path, data: bytes) -> Inspection:
    """Return the facts in the header, and in the metadata of the model that the engine was built from.

    Raises ModelError if the file is damaged.
    """
    file = unpack(data)
    graph, build = parse_model(file.model), file.build
    proto = onnx.load_model_from_string(file.model)
    metadata, verification = onnx_provenance(proto)
    metadata.pop(TIMESTEPS, None)
    fewest, best, most = build.batch
    sums = "float16" if build.half else "float32"
    facts = {
        "GPU": build.gpu,
        "TensorRT": build.tensorrt,
        "images at once": f"{fewest} to {most}, fastest for {best}" if fewest < most else str(most),
        "weighted sums": sums,
        "2:4 sparse": ", ".join(build.two_of_four) or "no layer",
        "engine": f"{human_bytes(len(file.engine))}; the model it was made of: {human_bytes(len(file.model))}",
    }
    lead = (build.timesteps, "N") if graph.timed_input else ("N",)
    return Inspection(
        path=path,
        nbytes=len(data),
        kind="engine",
        format=f"TensorRT engine file, version {VERSION}",
        producer=f"{proto.producer_name} {proto.producer_version}".strip() or PRODUCER,
        facts=facts,
        inputs=[Port(INPUT, "float32", (*lead, *graph.input_shape))],
        outputs=[
            Port(LOGITS, "float32", ("N", graph.classes)),
            Port(LOGITS_T, "float32", (build.timesteps, "N", graph.classes)),
        ],
        timesteps=build.timesteps,
        fixed_timesteps=True,
        metadata=metadata,
        verification=verification,
    )
