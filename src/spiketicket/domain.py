"""The operator domain of model files: names that the writer and every reader share.

Each operator is a model-local function whose body (`spiketicket.export.functions`) is standard ONNX,
so that an engine which does not know the domain can still run the file.
"""

DOMAIN = "ai.spiketicket"
DOMAIN_VERSION = 1
OPSET = 18
IR_VERSION = 10  # the first with function overloads, which tell hard from soft reset

SPARSE_CONV = "SparseConv"
SPARSE_LINEAR = "SparseLinear"
LIF = "LIF"
LI = "LI"
AND = "And"
AND_NOT = "AndNot"
REPEAT = "Repeat"

HARD_RESET = "hard"
SOFT_RESET = "soft"

INPUT = "input"
TIMESTEPS = "timesteps"
LOGITS = "logits"
LOGITS_T = "logits_t"

METADATA_PREFIX = "spiketicket."
