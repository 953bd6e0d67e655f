"""The trained tickets of tests/assets: what they are, and that their exported files verify."""

import numpy as np
import pytest
from benchmarks.models.assets import FOLDER, load_trained, trained

from spiketicket.errors import InputError
from spiketicket.export.ticket import export_ticket
from spiketicket.runtime import Session

MOST_BYTES = 8e6  # of all together


@pytest.mark.parametrize(("arch", "sparsity"), sorted(trained()))
def test_it_is_what_its_name_says(arch, sparsity):
    ticket = load_trained(arch, sparsity)
    assert (ticket.model.arch, ticket.model.width, ticket.model.timesteps) == (arch, 1.0, 5)
    assert 100 * ticket.sparsity == pytest.approx(sparsity, abs=0.01)
    assert ticket.search["dataset"] == "cifar10" and ticket.search["test_accuracy"] > 0.4  # chance is 0.1
    for name, mask in ticket.masks.items():
        assert not ticket.state[name].numpy()[~mask].any()


def test_there_are_some_and_they_are_small():
    assert ("vgg16", 98.13) in trained()
    assert sum(path.stat().st_size for path in FOLDER.glob("*.pt.xz")) < MOST_BYTES


def test_an_unknown_one_is_refused_with_those_that_are_there():
    with pytest.raises(InputError, match="no trained ticket of vgg16 at 50%: expected one of .*vgg16 at 98.13%"):
        load_trained("vgg16", 50.0)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "sparsity"), sorted(trained()))
def test_its_exported_file_verifies(arch, sparsity, tmp_path):
    """torch, onnxruntime and the native engine must agree with the oracle, or `export_ticket` raises."""
    ticket = load_trained(arch, sparsity)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    result = export_ticket(ticket, tmp_path / "it.onnx", samples=ticket.normalisation(images))
    assert {agreement.engine for agreement in result.agreements} >= {"torch", "native", "onnxruntime"}
    assert result.nbytes < result.dense_nbytes / 5
    with Session(tmp_path / "it.onnx") as session:
        assert session.run({"input": ticket.normalisation(images)})["logits"].shape == (8, 10)
