"""Metadata of model files: texts and back."""

import pytest

from spiketicket.data import Normalisation
from spiketicket.errors import ModelError
from spiketicket.model.metadata import Metadata, add_prefix, without_prefix

WHOLE = Metadata(
    "f1", "vgg_digits", "digits", ("0", "1"), Normalisation(16.0, (0.25,), (0.1,)), "imp", 0.5, 0.625, 0.987654
)
TEXTS = {
    "fingerprint": "f1",
    "arch": "vgg_digits",
    "dataset": "digits",
    "classes": "0\n1",
    "scale": "16.0",
    "mean": "0.25",
    "std": "0.1",
    "method": "imp",
    "sparsity": "0.500000",
    "sparsity_prunable": "0.625000",
    "test_accuracy": "0.987654",
}


def test_texts_and_back():
    assert WHOLE.to_strings() == TEXTS and Metadata.from_strings({**TEXTS, "colour": "red"}) == WHOLE


def test_what_is_missing_stays_missing():
    assert Metadata().to_strings() == {} and Metadata.from_strings({}) == Metadata()
    assert Metadata.from_strings({"mean": "0.5", "std": "1.0"}).normalisation is None


def test_damaged_texts():
    assert Metadata.from_strings({"sparsity": "high"}).sparsity is None
    with pytest.raises(ModelError, match="the model's normalisation is damaged: could not convert"):
        Metadata.from_strings({**TEXTS, "mean": "grey"})


def test_prefix():
    stored = add_prefix({"b": "2", "a": "1"})
    assert list(stored.items()) == [("spiketicket.a", "1"), ("spiketicket.b", "2")]
    assert without_prefix([*stored.items(), ("lab", "ours")]) == {"a": "1", "b": "2"}
