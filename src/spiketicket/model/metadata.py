"""The metadata of a model file: texts by key, which ONNX and NIR files store under a prefix of their own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from spiketicket.data import Normalisation
from spiketicket.errors import ModelError
from spiketicket.model.names import METADATA_PREFIX


@dataclass(frozen=True)
class Metadata:
    """Facts about the network in a model file and its training. A file may lack any of them and have other keys."""

    fingerprint: str | None = None
    arch: str | None = None
    dataset: str | None = None
    classes: tuple[str, ...] | None = None  # names, in the order of the logits
    normalisation: Normalisation | None = None
    method: str | None = None
    sparsity: float | None = None  # of all parameters
    sparsity_prunable: float | None = None
    test_accuracy: float | None = None

    def to_strings(self) -> dict[str, str]:
        """Return the texts of a model file by key, without those that are missing."""
        norm = self.normalisation
        texts = {
            "fingerprint": self.fingerprint,
            "arch": self.arch,
            "dataset": self.dataset,
            "classes": None if self.classes is None else "\n".join(self.classes),
            "scale": None if norm is None else repr(norm.scale),
            "mean": None if norm is None else " ".join(map(repr, norm.mean)),
            "std": None if norm is None else " ".join(map(repr, norm.std)),
            "method": self.method,
            "sparsity": _fraction(self.sparsity),
            "sparsity_prunable": _fraction(self.sparsity_prunable),
            "test_accuracy": _fraction(self.test_accuracy),
        }
        return {key: text for key, text in texts.items() if text is not None}

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> "Metadata":
        """Read what `to_strings` writes; other keys are ignored, and so is a fraction that is not a number.

        Raises ModelError if the normalisation is damaged.
        """
        return cls(
            texts.get("fingerprint"),
            texts.get("arch"),
            texts.get("dataset"),
            class_names(texts),
            _normalisation(texts),
            texts.get("method"),
            *(_number(texts.get(key)) for key in ("sparsity", "sparsity_prunable", "test_accuracy")),
        )


def class_names(texts: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of the classes; None where the file has none."""
    return tuple(texts["classes"].split("\n")) if "classes" in texts else None


def add_prefix(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts as a file stores them, sorted by key."""
    return {METADATA_PREFIX + key: text for key, text in sorted(texts.items())}


def without_prefix(stored: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the texts of a file that spiketicket wrote, without the prefix; other programs' keys are left out."""
    return {key.removeprefix(METADATA_PREFIX): text for key, text in stored if key.startswith(METADATA_PREFIX)}


def stored_texts(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Return the keys and texts in an ONNX file, other programs' too. Raises ModelError for anything but text."""
    pairs = [(entry.key, entry.value) for entry in model.metadata_props]
    if not all(isinstance(text, str) for pair in pairs for text in pair):  # bytes where it is not UTF-8
        raise ModelError("metadata must be UTF-8 text")
    return pairs


def _normalisation(texts: Mapping[str, str]) -> Normalisation | None:
    if not {"scale", "mean", "std"} <= set(texts):
        return None
    try:
        mean, std = (tuple(map(float, texts[key].split())) for key in ("mean", "std"))
        return Normalisation(float(texts["scale"]), mean, std)
    except ValueError as error:
        raise ModelError(f"the model's normalisation is damaged: {error}") from error


def _fraction(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
