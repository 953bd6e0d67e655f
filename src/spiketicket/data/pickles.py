"""Read pickles of arrays without running any other code that a pickle can ask for."""

import pickle
from io import BytesIO
from pathlib import Path

from spiketicket.errors import DataError
from spiketicket.files import read_bytes


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of plain types and NumPy arrays, which refuses everything else."""

    _ALLOWED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "ndarray", "dtype")
    ) | {("_codecs", "encode")}  # how Python 3 writes bytes for Python 2

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def unpickle_arrays(path: Path) -> object:
    """Return the content of the pickle in `path`, with strings of Python 2 decoded as latin1.

    Raises DataError if the file cannot be read or holds anything but arrays and plain types.
    """
    data = read_bytes(path, "data file", DataError)
    try:
        return _ArrayUnpickler(BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{path}: not a readable batch of arrays: {error}") from error


def read_pickle(path: Path) -> dict[object, object]:
    """Return the dictionary in `path`, strings of Python 2 as latin1; an empty one for other content.

    Raises DataError if the file cannot be read.
    """
    content = unpickle_arrays(path)
    return content if isinstance(content, dict) else {}
