"""What a session promises, for every engine."""

import numpy as np
import pytest

from spiketicket.errors import InputError, ModelError
from spiketicket.runtime import Session
from spiketicket.runtime.engines.registry import MODEL_ENGINES
from tests.support import cupy_standin
from tests.support.graphs import event_vectors, events, everything, feed, images, signals, write


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(everything(np.random.default_rng(0)), tmp_path_factory.mktemp("model"))


def stand_in(engine, monkeypatch):
    """For a GPU, where an engine needs one."""
    if engine == "cuda":
        cupy_standin.install(monkeypatch)


@pytest.fixture(params=MODEL_ENGINES)
def session(request, path, monkeypatch):
    stand_in(request.param, monkeypatch)
    with Session(path, engine=request.param) as session:
        yield session


def test_run_returns_the_mean_and_every_timestep(session):
    x = images(np.random.default_rng(1), 2, (3, 16, 16))
    result = session.run({"input": x})
    assert result["logits"].shape == (2, 4) and result["logits_t"].shape == (5, 2, 4)
    assert result["logits"].dtype == result["logits_t"].dtype == np.float32
    assert np.allclose(result["logits"], result["logits_t"].mean(axis=0), atol=1e-6)


def test_facts(session, path):
    assert session.input_shape == (3, 16, 16)
    assert session.timesteps == 5
    assert session.metadata == {"dataset": "none"}
    layers = {layer.name: layer for layer in session.layers()}
    assert layers["same"].shape == (17, 17, 3, 3) and layers["same"].timed and not layers["stem"].timed
    assert layers["stem"].density == 1.0 and layers["stem"].macs == 5 * 27 * 256
    assert layers["lif0"].density is None
    assert all(layer.kernel and layer.why for layer in layers.values())


BAD_INPUTS = [
    (
        np.zeros((1, 3, 16, 16)),
        r"input must be float32 \[N, 3, 16, 16\] with N >= 1, got float64 \[1, 3, 16, 16\]",
    ),
    (np.zeros((1, 3, 16, 15), np.float32), r"got float32 \[1, 3, 16, 15\]"),
    (np.zeros((3, 16, 16), np.float32), r"got float32 \[3, 16, 16\]"),
    (np.zeros((0, 3, 16, 16), np.float32), r"N >= 1, got float32 \[0, 3, 16, 16\]"),
    (np.float32(1.0), "must be a NumPy array"),
    ([[1.0]], "must be a NumPy array"),
    (np.full((1, 3, 16, 16), np.nan, np.float32), "NaN or infinity"),
    (np.full((1, 3, 16, 16), -np.inf, np.float32), "NaN or infinity"),
]


@pytest.mark.parametrize(("x", "message"), BAD_INPUTS)
def test_bad_arrays(session, x, message):
    with pytest.raises(InputError, match=message):
        session.run({"input": x})
    with pytest.raises(InputError, match=message):
        session.run_timesteps({"input": x})
    with pytest.raises(InputError, match=message):
        session.spikes({"input": x})


@pytest.mark.parametrize("inputs", [{}, {"x": np.zeros(1)}, None, np.zeros((1, 3, 16, 16), np.float32)])
def test_bad_feeds(session, inputs):
    with pytest.raises(InputError, match='expected {"input": array}'):
        session.run(inputs)


@pytest.mark.parametrize("timesteps", [0, -1, 4097, 2.0, "5", True])
def test_bad_timesteps(session, timesteps):
    with pytest.raises(InputError, match="timesteps must be a whole number from 1 to 4096"):
        session.run({"input": np.zeros((1, 3, 16, 16), np.float32)}, timesteps)


def test_strided_input_is_read_right(session):
    x = images(np.random.default_rng(2), 4, (3, 16, 16))
    assert np.array_equal(session.run({"input": x[::2]})["logits"], session.run({"input": x[::2].copy()})["logits"])


def test_closed_session(path):
    session = Session(path)
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run({"input": np.zeros((1, 3, 16, 16), np.float32)})


def test_unknown_engine(path):
    with pytest.raises(InputError, match="unknown engine 'tpu': expected one of auto, native, onnxruntime, reference"):
        Session(path, engine="tpu")


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("auto", {"plan": "tensor"}, "tensor is a choice of engine cuda, not of native"),
        ("native", {"values": "float16"}, "float16 is a choice of engine cuda, not of native"),
        ("reference", {"plan": "masks"}, "masks is a choice of engine native, not of reference"),
        ("onnxruntime", {"values": "int16"}, "int16 is a choice of engine native, not of onnxruntime"),
    ],
)
def test_choices_of_another_engine(path, engine, options, message):
    with pytest.raises(InputError, match=message):
        Session(path, engine=engine, **options)


@pytest.mark.parametrize("threads", [0, -2, 1.5, "2", 5000])
def test_bad_threads(path, threads):
    with pytest.raises(InputError, match="threads must be a whole number"):
        Session(path, threads=threads)


def test_missing_model(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read model .*none\.onnx: No such file"):
        Session(tmp_path / "none.onnx")


def test_signals_are_told_apart_from_images(tmp_path):
    with Session(write(signals(np.random.default_rng(0)), tmp_path)) as session:
        assert session.input_shape == (3, 19) and not session.timed_input
        with pytest.raises(InputError, match=r"input must be float32 \[N, 3, 19\] with N >= 1, got float32 \[3, 19\]"):
            session.run({"input": np.zeros((3, 19), np.float32)})


@pytest.fixture(params=MODEL_ENGINES)
def timed(request, tmp_path, monkeypatch):
    stand_in(request.param, monkeypatch)
    with Session(write(events(np.random.default_rng(0)), tmp_path), engine=request.param) as session:
        yield session


def test_a_timed_input_says_how_many_timesteps_there_are(timed):
    assert timed.timed_input and timed.timesteps == 4 and timed.input_shape == (2, 11, 10)
    x = feed(np.random.default_rng(1), timed, 2, 6)
    for timesteps in (None, 6, np.int64(6)):
        assert timed.run({"input": x}, timesteps)["logits_t"].shape == (6, 2, 5)
        assert len(list(timed.run_timesteps({"input": x}, timesteps))) == 6
        assert timed.spikes({"input": x}, timesteps)["first"].shape == (6, 2, 7, 11, 10)


BAD_FRAMES = [
    ((2, 2, 11, 10), None, r"float32 \[T, N, 2, 11, 10\] with T >= 1, N >= 1, got float32 \[2, 2, 11, 10\]"),
    ((0, 2, 2, 11, 10), None, r"with T >= 1, N >= 1, got float32 \[0, 2, 2, 11, 10\]"),
    ((3, 0, 2, 11, 10), None, r"with T >= 1, N >= 1, got float32 \[3, 0, 2, 11, 10\]"),
    ((3, 1, 2, 11, 10), 4, r"timesteps is 4, but input \[3, 1, 2, 11, 10\] has T = 3: leave timesteps out"),
    ((3, 1, 2, 11, 10), 0, "timesteps must be a whole number from 1 to 4096, got 0"),
    ((4097, 1, 2, 11, 10), None, "timesteps must be a whole number from 1 to 4096, got 4097"),
]


@pytest.mark.parametrize(("shape", "timesteps", "message"), BAD_FRAMES)
def test_bad_frames(timed, shape, timesteps, message):
    x = np.zeros(shape, np.float32)
    for run in (timed.run, timed.run_timesteps, timed.spikes):
        with pytest.raises(InputError, match=message):
            run({"input": x}, timesteps)


def test_strided_frames_are_read_right(timed):
    x = feed(np.random.default_rng(2), timed, 4, 6)
    part = x[::2, 1::2]
    assert np.array_equal(timed.run({"input": part})["logits"], timed.run({"input": part.copy()})["logits"])


def test_vectors_can_be_frames(tmp_path):
    with Session(write(event_vectors(np.random.default_rng(0)), tmp_path)) as session:
        assert session.run({"input": np.ones((5, 2, 30), np.float32)})["logits_t"].shape == (5, 2, 3)
