"""Ticket files: nothing lost, nothing foreign accepted, no code run."""

import lzma
import os
import pickle
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from spiketicket.errors import TicketError
from spiketicket.train.search import ticket as ticket_module
from spiketicket.train.search.ticket import load_ticket, save_ticket, to_bytes


@pytest.fixture
def stored(quick_run, tmp_path):
    """The content of a good ticket file, to be tampered with."""
    save_ticket(tmp_path / "good.pt", quick_run[1][-1])
    return torch.load(tmp_path / "good.pt", weights_only=True)


def refuse(tmp_path, content, message):
    path = tmp_path / "bad.pt"
    path.write_bytes(content if isinstance(content, bytes) else to_bytes(content))
    with pytest.raises(TicketError, match=message) as caught:
        load_ticket(path)
    assert str(path) in str(caught.value)


def test_round_trip(quick_run, tmp_path):
    ticket = quick_run[1][-1]
    save_ticket(tmp_path / "t.pt", ticket)
    loaded = load_ticket(tmp_path / "t.pt")
    assert loaded.model == ticket.model and loaded.search == ticket.search
    assert loaded.environment == ticket.environment and loaded.fingerprint == ticket.fingerprint
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in ticket.state.items())
    assert all(np.array_equal(loaded.masks[name], mask) for name, mask in ticket.masks.items())


def test_fingerprint_sees_every_part(quick_run):
    ticket = quick_run[1][-1]
    changed = dict(ticket.state)
    changed["classifier.bias"] = changed["classifier.bias"] + 1e-7
    assert replace(ticket, state=changed).fingerprint != ticket.fingerprint
    assert replace(ticket, model=replace(ticket.model, timesteps=4)).fingerprint != ticket.fingerprint
    masks = {**ticket.masks, "classifier.weight": ~ticket.masks["classifier.weight"]}
    assert replace(ticket, masks=masks).fingerprint != ticket.fingerprint
    assert replace(ticket, search={**ticket.search, "seconds": 1.0}).fingerprint == ticket.fingerprint


def test_sparsities(quick_run):
    ticket = quick_run[1][-1]
    prunable = sum(mask.size for mask in ticket.masks.values())
    parameters = sum(p.numel() for p in ticket.network().parameters())
    assert ticket.sparsity_prunable == pytest.approx(0.75, abs=1 / prunable)
    assert ticket.sparsity == pytest.approx(0.75 * prunable / parameters, abs=1e-4)


def test_saving_refuses_a_mask_that_does_not_hold(quick_run, tmp_path):
    ticket = quick_run[1][-1]
    state = {**ticket.state, "classifier.weight": torch.ones_like(ticket.state["classifier.weight"])}
    with pytest.raises(TicketError, match="weight classifier.weight is not zero where its mask prunes it"):
        save_ticket(tmp_path / "t.pt", replace(ticket, state=state))
    assert not (tmp_path / "t.pt").exists()


MARKER = Path(tempfile.gettempdir()) / "spiketicket-was-here"  # what the hostile pickle would create


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def test_pickled_code_is_refused(tmp_path):
    hostile = BytesIO()
    torch.save({"format": "spiketicket.ticket", "x": Hostile()}, hostile)
    for content in (hostile.getvalue(), pickle.dumps(Hostile())):
        refuse(tmp_path, content, "not a ticket: cut short, foreign, or holding code")
    assert not MARKER.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_foreign_files(tmp_path, content):
    refuse(tmp_path, content, "not a ticket")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_files(tmp_path, stored, share):
    data = to_bytes(stored)
    refuse(tmp_path, data[: int(share * len(data))], "not a ticket")


def test_missing_file(tmp_path):
    with pytest.raises(TicketError, match="none.pt: cannot read ticket: No such file"):
        load_ticket(tmp_path / "none.pt")


@pytest.mark.parametrize("field", ["model", "state", "masks", "search", "environment"])
def test_missing_fields(tmp_path, stored, field):
    del stored[field]
    refuse(tmp_path, stored, f"field '{field}' is missing")


def test_format_and_version(tmp_path, stored):
    refuse(tmp_path, {**stored, "format": "other"}, "expected the format 'spiketicket.ticket'")
    refuse(tmp_path, {**stored, "version": 3}, "ticket version 3, this release reads 1 and 2")
    refuse(tmp_path, [1, 2], "expected the format")


def test_tampered_model(tmp_path, stored):
    model = stored["model"]
    refuse(tmp_path, {**stored, "model": {**model, "arch": "lenet"}}, "unknown arch 'lenet'")
    refuse(tmp_path, {**stored, "model": {**model, "width": 1e9}}, "bad width")
    refuse(tmp_path, {**stored, "model": {**model, "extra": 1}}, "ModelConfig needs exactly")
    refuse(tmp_path, {**stored, "model": {**model, "neuron": {"tau": 2}}}, "NeuronConfig needs exactly")
    refuse(
        tmp_path,
        {**stored, "model": {**model, "width": 1.0}},
        "mask stem.0.weight: expected 18 packed bytes",
    )


def test_tampered_state(tmp_path, stored):
    state, name = stored["state"], "features.1.bias"
    without = {key: value for key, value in state.items() if key != name}
    refuse(tmp_path, {**stored, "state": without}, f"state does not fit the network: {name}")
    refuse(
        tmp_path,
        {**stored, "state": {**state, "more": torch.ones(1)}},
        "state does not fit the network: more",
    )
    refuse(
        tmp_path,
        {**stored, "state": {**state, name: state[name].double()}},
        f"state {name}: expected torch.float32",
    )
    refuse(tmp_path, {**stored, "state": {**state, name: state[name][1:]}}, f"state {name}: expected")
    refuse(tmp_path, {**stored, "state": {**state, name: "text"}}, f"state {name}: expected .* got str")
    for bad in (float("nan"), float("inf")):
        damaged = torch.full_like(state[name], bad)
        refuse(tmp_path, {**stored, "state": {**state, name: damaged}}, f"state {name} holds NaN or infinity")
    variance = "features.2.running_var"
    negative = -torch.ones_like(state[variance])
    refuse(
        tmp_path,
        {**stored, "state": {**state, variance: negative}},
        f"state {variance} holds a negative variance",
    )


def test_tampered_masks(tmp_path, stored):
    masks, name = stored["masks"], "features.1.weight"
    refuse(
        tmp_path,
        {**stored, "masks": {**masks, name: masks[name][:-1]}},
        f"mask {name}: expected .* packed bytes",
    )
    refuse(
        tmp_path,
        {**stored, "masks": {**masks, name: masks[name].float()}},
        f"mask {name} must be a plain tensor of uint8",
    )
    refuse(
        tmp_path,
        {**stored, "masks": {**masks, name: None}},
        f"mask {name} must be a plain tensor of uint8, got NoneType",
    )
    refuse(
        tmp_path,
        {**stored, "masks": {**masks, "odd": masks[name]}},
        "masks must name exactly the prunable weights",
    )
    empty = torch.zeros_like(masks[name])
    refuse(tmp_path, {**stored, "masks": {**masks, name: empty}}, f"survivors {name}: expected 0 numbers")


def test_tampered_survivors(tmp_path, stored):
    values, name = stored["survivors"], "features.1.weight"
    for bad in (values[name][1:], values[name].double(), values[name][None], "text", None):
        refuse(tmp_path, {**stored, "survivors": {**values, name: bad}}, f"survivors {name}: expected")
    refuse(tmp_path, {**stored, "survivors": {}}, "survivors must name exactly the prunable weights")
    refuse(tmp_path, {**stored, "survivors": None}, "survivors must name exactly the prunable weights")
    not_finite = torch.full_like(values[name], float("nan"))
    refuse(tmp_path, {**stored, "survivors": {**values, name: not_finite}}, f"state {name} holds NaN or infinity")


def version_one(ticket, stored):
    """The content of a file as the first releases wrote it: whole tensors, no survivors."""
    content = {**stored, "version": 1, "state": ticket.state}
    del content["survivors"]
    return content


def test_version_one_is_read(quick_run, tmp_path, stored):
    ticket = quick_run[1][-1]
    (tmp_path / "old.pt").write_bytes(to_bytes(version_one(ticket, stored)))
    assert load_ticket(tmp_path / "old.pt").fingerprint == ticket.fingerprint


def test_version_one_must_hold_its_masks(quick_run, tmp_path, stored):
    name = "features.1.weight"
    state = {**quick_run[1][-1].state, name: torch.ones_like(quick_run[1][-1].state[name])}
    content = {**version_one(quick_run[1][-1], stored), "state": state}
    refuse(tmp_path, content, f"weight {name} is not zero where its mask prunes it")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_survivors_are_stored_in_the_narrowest_type_that_loses_nothing(quick_run, tmp_path, dtype):
    ticket = quick_run[1][-1]
    exact = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}[dtype]  # bits of the significand
    values = {name: torch.ldexp(torch.tensor(2.0**exact - 1), torch.tensor(-exact)) for name in ticket.masks}
    state = {**ticket.state, **{n: values[n] * torch.from_numpy(mask) for n, mask in ticket.masks.items()}}
    save_ticket(tmp_path / "t.pt", replace(ticket, state=state))
    kept = torch.load(tmp_path / "t.pt", weights_only=True)["survivors"]
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    loaded = load_ticket(tmp_path / "t.pt").state
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_compressed(quick_run, tmp_path):
    ticket = quick_run[1][-1]
    for name in ("t.pt", "t.pt.xz"):
        save_ticket(tmp_path / name, ticket)
    assert load_ticket(tmp_path / "t.pt.xz").fingerprint == ticket.fingerprint
    packed = (tmp_path / "t.pt.xz").read_bytes()
    assert len(packed) < (tmp_path / "t.pt").stat().st_size
    refuse(tmp_path, packed[: len(packed) // 2], "not a ticket: it is cut short, or larger than")
    refuse(tmp_path, packed[:40] + bytes(40) + packed[80:], "not a ticket")


def test_decompression_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(ticket_module, "LARGEST", 2**24)
    refuse(tmp_path, lzma.compress(bytes(2**25)), "cut short, or larger than 16 MiB")


def test_tampered_search(tmp_path, stored):
    search = stored["search"]
    refuse(tmp_path, {**stored, "search": {**search, "seed": "3"}}, "search 'seed' is missing or no int")
    refuse(tmp_path, {**stored, "search": {**search, "classes": ["a"]}}, "classes must be 10 names")
    norm = {**search["normalisation"], "std": [0.0]}
    refuse(tmp_path, {**stored, "search": {**search, "normalisation": norm}}, "scale and std must be above 0")
    norm = {**search["normalisation"], "mean": [0.1, 0.2]}
    refuse(
        tmp_path,
        {**stored, "search": {**search, "normalisation": norm}},
        "normalisation mean must be 1 numbers",
    )


HOSTILE_FIELDS = [
    ({"version": torch.ones(2)}, "version"),
    ({"version": True}, "version True, this release reads 1"),
    ({"model.neuron.tau": 10**400}, "bad tau"),
    ({"model.neuron.tau": 1.0}, "tau must be above 1"),
    ({"model.neuron.v_reset": 1.5}, "v_reset must lie below v_threshold"),
    ({"masks.classifier.weight": torch.zeros(3, dtype=torch.bfloat16)}, "plain tensor of uint8, got torch.bfloat16"),
    ({"masks.classifier.weight": torch.zeros(3, dtype=torch.uint8).to_sparse()}, "plain tensor of uint8"),
    ({"state.classifier.bias": torch.zeros(10).to_sparse()}, "must be a plain dense tensor"),
    ({"search.test_accuracy": float("nan")}, "test_accuracy must lie in 0..1"),
    ({"search.seconds": float("inf")}, "seconds be finite"),
    ({"search.round": -1}, "must not be negative"),
    ({"search.classes": ["\ud800"] * 10}, "classes must be 10 names"),
    ({"search.normalisation.std": [10**400]}, "std must be 1 numbers"),
    ({"search.normalisation.scale": 10**400}, "scale and std must be above 0"),
]


def replaced(content, path, value):
    """A copy of nested dictionaries with the field at `path` (names may hold dots) replaced."""
    for name in content:
        if path == name:
            return {**content, name: value}
        if path.startswith(f"{name}."):
            return {**content, name: replaced(content[name], path[len(name) + 1 :], value)}
    raise KeyError(path)


@pytest.mark.parametrize(("change", "message"), HOSTILE_FIELDS, ids=lambda x: str(x)[:40])
def test_hostile_fields(tmp_path, stored, change, message):
    ((path, value),) = change.items()
    refuse(tmp_path, replaced(stored, path, value), message)


def test_parameters_are_read_as_tensors(tmp_path, stored):
    parameter = torch.nn.Parameter(stored["state"]["classifier.bias"])
    path = tmp_path / "t.pt"
    path.write_bytes(to_bytes(replaced(stored, "state.classifier.bias", parameter)))
    assert len(load_ticket(path).fingerprint) == 64
