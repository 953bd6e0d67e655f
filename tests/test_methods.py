"""Every method goes the whole way on digits: search, export, native engine."""

import numpy as np
import pytest
import torch

from spiketicket.export.ticket import export_ticket
from spiketicket.runtime import Session
from spiketicket.runtime.evaluate import evaluate
from spiketicket.runtime.inputs import dataset_inputs
from spiketicket.train.networks.models import logits
from spiketicket.train.search.search import search
from spiketicket.train.search.ticket import load_ticket
from tests.support.tiers import beyond_the_first

WAYS = {
    "imp": {"method": "imp"},
    "imp, early time": {"method": "imp", "early_time": True},
    "eb": {"method": "eb"},
    "eb, early time": {"method": "eb", "early_time": True},
    "random from the rewind point": {"method": "random"},
    "random from init": {"method": "random", "rewind_epoch": 0},
    "one shot": {"method": "oneshot"},
    "random, early time": {"method": "random", "early_time": True, "rewind_epoch": 3, "epochs": 5},
    "eb, released": {"method": "eb", "recipe": "released"},
    "one shot, early time": {"method": "oneshot", "early_time": True},
    "released, early time": {"method": "imp", "recipe": "released", "early_time": True},
    "2:4": {"method": "oneshot", "strategy": "2:4", "sparsity": 50.0},
    "balanced": {"method": "imp", "strategy": "balanced:4"},
    "gradual": {"method": "gradual", "epochs": 4, "phases": "1x2,5x2", "soft_epochs": 1.0},
}


@pytest.mark.parametrize("way", beyond_the_first(pytest.mark.train_whole, WAYS))
def test_from_search_to_native_engine(way, quick_settings, digits, tmp_path):
    options = {"rounds": None, "sparsity": 45.0, "epochs": 3, **WAYS[way]}
    tickets = search(quick_settings(**options), digits, tmp_path / "run")
    ticket = load_ticket(tmp_path / "run" / "ticket.pt")
    assert ticket.fingerprint == tickets[-1].fingerprint
    assert ticket.model.timesteps == 5, "a reported ticket is trained at full T"
    assert ticket.sparsity == pytest.approx(options["sparsity"] / 100, abs=1e-3)
    assert ticket.search["test_accuracy"] > 0.5, "it has learnt something"
    _, held_out = digits.hold_out(0.1, 3)
    with torch.no_grad():
        out = logits(ticket.network(), torch.from_numpy(ticket.normalisation(held_out.images)))
    right = (out.mean(0).argmax(1).numpy() == held_out.labels).mean()
    assert right == ticket.search["validation_accuracy"], "it is the network that was chosen, at the T that it names"
    samples = ticket.normalisation(digits.test.images[:64])
    exported = export_ticket(ticket, tmp_path / "ticket.onnx", samples=samples)
    with Session(exported.path, engine="native") as session:
        found = evaluate(session, dataset_inputs(session, digits, "test"), digits.test.labels)
        assert found.accuracy == pytest.approx(ticket.search["test_accuracy"], abs=3 / len(digits.test.labels))
        dense = np.mean([layer.density for layer in session.layers() if layer.density is not None])
        assert dense < 0.8
