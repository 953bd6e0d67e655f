"""The operator domain of model files: names that the writer and every reader share.

Each operator is a model-local function whose body (`spiketicket.model.functions`) is standard ONNX,
so that an engine which does not know the domain can still run the file.
"""

DOMAIN = "ai.spiketicket"
DOMAIN_VERSION = 1
OPSET = 18  # the lowest that the operators' bodies need, and the default of files
OPSETS = range(OPSET, 25)
IR_VERSION = 10  # the first with overloads of functions, for hard and soft reset

SPARSE_CONV = "SparseConv"
SPARSE_LINEAR = "SparseLinear"
LIF = "LIF"
LI = "LI"
LIF_STEP = "LIFStep"  # one timestep, potentials as inputs and outputs
LI_STEP = "LIStep"
AND = "And"
AND_NOT = "AndNot"
REPEAT = "Repeat"

HARD_RESET = "hard"
SOFT_RESET = "soft"
SCALED = "scaled"  # weights are whole numbers, with a scale for every row

INPUT = "input"
TIMESTEPS = "timesteps"
LOGITS = "logits"
LOGITS_T = "logits_t"


def potential(layer: str) -> tuple[str, str]:
    """Return the names of the input and output that hold the potentials of a neuron layer in a file of one timestep.

    Potentials are above rest, so that they are zeros in the beginning.
    """
    return f"v_{layer}", f"v_{layer}_out"


PRODUCER = "spiketicket"
METADATA_PREFIX = "spiketicket."
VERIFICATION = "verification"  # key, without prefix, of a JSON list of `Agreement.brief()` of export/check
