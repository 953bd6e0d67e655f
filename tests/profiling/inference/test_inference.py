"""The whole profile, of small models, from the measurement to the command."""

import json
import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from spiketicket.cli.profile.command import app
from spiketicket.errors import DataError, InputError
from spiketicket.export.formats.tensorrt import export_engine
from spiketicket.model.reader import read_model
from spiketicket.profiling.inference import engines
from spiketicket.profiling.inference import profile as inference
from spiketicket.profiling.inference.engines import PROFILED
from spiketicket.profiling.inference.latency import measure_latency
from spiketicket.profiling.inference.profile import names
from spiketicket.profiling.inference.samples import NOISE, load_samples
from spiketicket.profiling.inference.settings import ProfileSettings, usable_cores
from spiketicket.profiling.measure.noise import Noise
from spiketicket.runtime import Session
from tests.support import cupy_standin, nvidia_standin
from tests.support.graphs import events, everything, write
from tests.support.profiles import check_schema, latency, model, profile

DIGITS = Path(__file__).parents[2] / "assets" / "digits.onnx"
HERE = [name for name in PROFILED if name not in ("cuda", "tensorrt")]  # of these, tests stand in for a GPU
QUICK = ["--iterations", "12", "--warmup", "0", "--threads", "1"]

runner = CliRunner()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(everything(np.random.default_rng(0)), tmp_path_factory.mktemp("m"))


def quick(*engines, **options):
    return ProfileSettings(engines, **{"timesteps": (1, 2), "iterations": 12, "warmup": 0, **options})


@pytest.mark.parametrize("make", [everything, events])
def test_engines_agree_with_the_oracle_and_are_timed(tmp_path, make):
    """All of them, also those that get the network in another form; a timed input has T frames."""
    path = write(make(np.random.default_rng(4)), tmp_path)
    with Session(path, engine="reference") as oracle:
        samples = load_samples(oracle, None, None, None)
        x = samples.batches(2)[0]
        frames = np.ascontiguousarray(np.broadcast_to(x, (3, *x.shape))) if oracle.timed_input else x
        expected = oracle.run({"input": frames}, 3)["logits_t"]
    with ExitStack() as stack:
        for name in HERE:
            run = engines.open_engine(name, path, 1, stack)
            np.testing.assert_allclose(run(frames, 3), expected, rtol=1e-3, atol=1e-4, err_msg=name)
    found = measure_latency(path, samples, quick(*HERE), [])
    assert [(row.engine, row.timesteps) for row in found.rows] == [(name, t) for name in HERE for t in (1, 2)]
    assert all(row.timing.n == 12 and row.timing.min > 0 for row in found.rows)
    assert all((row.marginal is None) == (row.timesteps == 1) for row in found.rows)
    assert {row.speed.value for row in found.rows if row.engine == "native"} == {1.0}


def test_openvino_leaves_networks_of_one_thread_all_cores():
    """Pinned, several of them would share one core, and no stream would add anything."""
    images = np.zeros((8, 1, 8, 8), np.float32)
    with ExitStack() as stack:
        run = engines.open_engine("openvino", DIGITS, 1, stack)
        run(images, 2)  # when it first compiles, OpenVINO looks at every core
        allowed, seen = os.sched_getaffinity(0), set()
        thread = threading.Thread(target=lambda: [run(images, 2) for _ in range(300)])
        thread.start()
        while thread.is_alive():
            with suppress(ProcessLookupError):
                seen.add(frozenset(os.sched_getaffinity(thread.native_id or 0)))
    assert seen == {frozenset(allowed)}


def test_an_engine_that_is_missing_is_told_and_the_others_go_on(small, monkeypatch):
    monkeypatch.setattr(
        engines, "_import", lambda module, extra: (_ for _ in ()).throw(engines.Unavailable("not here"))
    )
    with Session(small) as session:
        samples = load_samples(session, None, None, None)
    printed = runner.invoke(app, [str(small), *QUICK, "--timesteps", "1", "--engines", "openvino,native"]).output
    assert ": native at T = 1" in printed and "openvino was not measured: not here" in printed
    found = measure_latency(small, samples, quick("openvino", "native"), [])
    assert found.missing == {"openvino": "not here"} and {row.engine for row in found.rows} == {"native"}
    with pytest.raises(engines.Unavailable, match="no engine can run the model: openvino: not here"):
        measure_latency(small, samples, quick("openvino"), [])


@pytest.mark.parametrize("make", [everything, events])
def test_tensorrt_runs_what_export_builds_for_every_t_and_batch(tmp_path, monkeypatch, make):
    trt, _ = nvidia_standin.install(monkeypatch)
    path = write(make(np.random.default_rng(4)), tmp_path)
    with Session(path, engine="reference") as oracle:
        samples = load_samples(oracle, None, None, None)
        x, lead = samples.batches(2)[0], (1,) if oracle.timed_input else ()
    export_engine(read_model(path)[0], tmp_path / "own.engine", timesteps=1, batch=(2, 2, 2))
    with ExitStack() as stack:
        run = engines.open_engine("tensorrt", path, 1, stack)
        own = stack.enter_context(Session(tmp_path / "own.engine", engine="tensorrt"))
        x = x.reshape(*lead, *x.shape)
        np.testing.assert_array_equal(run(x, 1), own.run({"input": x}, 1)["logits_t"])
    trt.calls.clear()
    found = measure_latency(path, samples, quick("tensorrt", batches=(1, 2)), [])
    shapes = [call[2:] for call in trt.calls if call[0] == "set_shape"]
    expected = [((t,) if lead else ()) + (n, *x.shape[len(lead) + 1 :]) for n in (1, 2) for t in (1, 2)]
    assert shapes == [(shape,) * 3 for shape in expected]
    assert [(row.timesteps, row.batch) for row in found.rows] == [(1, 1), (2, 1), (1, 2), (2, 2)]


def test_without_tensorrt_the_report_says_what_to_install(small):
    with ExitStack() as stack, pytest.raises(engines.Unavailable, match=r"pip install 'spiketicket\[tensorrt\]'"):
        engines.open_engine("tensorrt", small, 1, stack)


def test_torch_has_its_threads_back(small):
    import torch

    before = torch.get_num_threads()
    with ExitStack() as stack:
        engines.open_engine("torch", small, before + 1, stack)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_samples_are_the_model_s_data_set_or_noise(small):
    with Session(DIGITS) as session:
        found = load_samples(session, None, None, 50)
        assert found.source == "50 of 355 test images of digits" and len(found.labels) == 50
        assert {len(batch) for batch in found.batches(8)} == {8} and len(found.batches(1)) == 32
        assert len(found.batches(100)) == 1 and len(found.batches(100)[0]) == 100
    with Session(small) as session:
        assert load_samples(session, None, None, None).source == NOISE
        with pytest.raises(InputError, match="the model takes images"):
            load_samples(session, "digits", None, None)


def test_the_command_writes_what_the_schema_says(tmp_path):
    out = tmp_path / "out.json"
    result = runner.invoke(
        app,
        [
            str(DIGITS),
            *QUICK,
            "--timesteps",
            "1,4-5",
            "--batch",
            "1,4",
            "--streams",
            "1",
            "--duration",
            "0.05",
            "--engines",
            "native,onnxruntime",
            "--percentile",
            "50,75",
            "--margin",
            "0.5,2",
            "-x",
            str(out),
            "-x",
            str(tmp_path / "out.html"),
            "--budget",
            "1s",
        ],
    )
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    check_schema(data)
    (measured,) = data["models"]
    assert len(measured["latency"]) == 2 * 3 * 2 and measured["input"] == "355 of 355 test images of digits"
    assert [row["timesteps"] for row in measured["accuracy"]] == [1, 2, 3, 4, 5]
    assert measured["accuracy"][-1]["accuracy"] > 0.95 > measured["accuracy"][0]["low"]
    assert [row["margin"] for row in measured["early_exit"]] == [0.5, 2.0]
    assert all(row["ms"] > 0 for row in measured["early_exit"])
    assert set(measured["latency"][0]["percentiles_ms"]) == {"50", "75"}
    assert [row["engine"] for row in measured["memory"]] == ["native", "onnxruntime"]
    assert len(measured["throughput"]) == 2
    assert "best: digits.onnx in" in result.output and "wrote" in result.output
    page = (tmp_path / "out.html").read_text()
    assert "digits.onnx" in page and page.count("<svg") >= 2


@pytest.mark.parametrize("name", ["inference", "search"])
def test_published_profiles_are_what_the_schema_says(name):
    check_schema(json.loads((Path(__file__).parents[3] / "docs" / "results" / f"profile-{name}.json").read_text()))


def test_limits_decide_the_exit_code(tmp_path):
    stored, limits = tmp_path / "p.json", tmp_path / "limits.toml"
    stored.write_text(json.dumps(profile(model("a.onnx", [latency(p50=2.0)]))))
    limits.write_text('[[limit]]\nmetric = "p50_ms"\nmax = 2.5\n')
    kept = runner.invoke(app, [str(stored), "--check", str(limits)])
    assert kept.exit_code == 0 and "kept: p50_ms of all rows: at most 2.5" in kept.output
    limits.write_text('[[limit]]\nmetric = "p50_ms"\nmax = 1.5\n')
    broken = runner.invoke(app, [str(stored), "--check", str(limits)])
    assert broken.exit_code == 1 and "BROKEN: p50_ms" in broken.output
    written = runner.invoke(app, [str(stored), "--check", str(limits), "-x", str(tmp_path / "p.html")])
    assert written.exit_code == 1 and "expected no -x beside it" in " ".join(written.stderr.split())


def test_compare_command(tmp_path):
    for name, p50 in (("a", 2.0), ("b", 1.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(profile(model("m.onnx", [latency(p50=p50)]))))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    result = runner.invoke(app, ["--compare", *files, "-x", str(tmp_path / "c.json")])
    assert result.exit_code == 0 and "1 became faster and 0 slower" in " ".join(result.output.split())
    data = json.loads((tmp_path / "c.json").read_text())
    check_schema(data)
    assert data["changes"][0]["verdict"] == "faster" and data["changes"][0]["ratio"]["value"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timesteps", "0"], "timesteps must be a whole number from 1 to 4096, got 0"),
        (["--timesteps", "5-1"], "timesteps: expected a rising range, got '5-1'"),
        (["--timesteps", "3,1"], "timesteps: expected rising whole numbers"),
        (["--timesteps", "1,two"], "timesteps: expected whole numbers as in 1,3 or 1-5"),
        (["--timesteps", "4-"], "timesteps: expected whole numbers as in 1,3 or 1-5"),
        (["--batch", "0"], "batches: expected rising whole numbers from 1, got 0"),
        (["--threads", "4096"], "this process may use"),
        (["--streams", "4096"], "this process may use"),
        (["--streams", "0"], "cores that this process may use, got 0"),
        (["--engines", "tpu"], "engines: expected one or more of native"),
        (["--engines", "native,native"], "each once"),
        (["--duration", "0"], "duration: expected seconds above 0, got 0"),
        (["--iterations", "0"], "iterations: expected 1 or more, got 0"),
        (["--warmup", "-1"], "warmup: expected a number of runs from 0"),
        (["--percentile", "101"], "percentiles: expected numbers between 0 and 100"),
        (["--margin", "-1"], "margins: expected numbers from 0"),
        (["--margin", "wide"], "margin: expected numbers separated by commas"),
        (["--pin", "4095"], "there is no core 4095; this process may use"),
        (["--budget", "soon"], "expected a time such as 2ms"),
        (["--check", "none.toml"], "none.toml"),
        (["--energy", "none.json"], "none.json"),
        (["-x", "report.pdf"], ".html"),
        (["--dataset", "imagenet"], "unknown data set 'imagenet'"),
        (["--dataset", "digits"], "the model takes images"),
    ],
)
def test_refusals(small, options, message):
    result = runner.invoke(app, [str(small), *QUICK, *options])
    assert result.exit_code == 1 and message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "none.onnx"),
        (["README.md"], "not an ONNX file"),
        (["--compare", "none.json", "none.json"], "none.json"),
        (["model"], "expected one or more model files"),
        (["--compare", "none.json", "none.json", "--budget", "1ms"], "expected no --budget or --check beside it"),
    ],
)
def test_foreign_files(arguments, message, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1 and message in " ".join(result.stderr.split())


def test_names_tell_files_apart():
    assert names([Path("a/m.onnx"), Path("b/n.onnx")]) == ["m.onnx", "n.onnx"]
    assert names([Path("a/m.onnx"), Path("b/m.onnx")]) == ["a/m.onnx", "b/m.onnx"]
    with pytest.raises(InputError, match="each file once"):
        names([Path("a/m.onnx"), Path("a/../a/m.onnx")])


def test_a_report_that_cannot_be_written_does_not_take_the_others_with_it(tmp_path, monkeypatch):
    read_only = tmp_path / "folder.json"
    read_only.mkdir()
    good = tmp_path / "good.json"
    options = [*QUICK, "--engines", "native", "--timesteps", "1", "-x", str(read_only), "-x", str(good)]
    result = runner.invoke(app, [str(DIGITS), *options])
    assert result.exit_code == 1 and "folder.json" in result.stderr
    assert json.loads(good.read_text())["kind"] == "inference"
    missing = tmp_path / "none" / "a.json"
    result = runner.invoke(app, [str(DIGITS), *QUICK, "-x", str(missing)])
    assert result.exit_code == 1 and "there is no folder" in result.stderr and "Latency" not in result.output


def test_a_folder_that_was_asked_for_must_hold_the_images(tmp_path):
    with Session(DIGITS) as session:
        session.graph.metadata["dataset"] = "cifar10"
        assert load_samples(session, None, None, None).source == NOISE
        with pytest.raises(DataError, match="cifar-10-batches-py"):
            load_samples(session, None, tmp_path, None)


def test_the_engine_that_accuracy_is_measured_by():
    def engine(*names):
        with inference.open_session(DIGITS, ProfileSettings(names, (1,))) as session:
            return session.engine_name

    assert engine("onnxruntime", "native") == "native" and engine("torch", "onnxruntime") == "onnxruntime"
    assert engine("torch") == "reference" and engine("cuda") == "reference"  # there is no GPU


@pytest.mark.emulator
def test_a_profile_of_engine_cuda(tmp_path, monkeypatch):
    """On a stand-in: what it takes says nothing, but that it is there, by layer too."""
    cupy_standin.install(monkeypatch)
    out = tmp_path / "out.json"
    result = runner.invoke(app, [str(DIGITS), *QUICK, "--timesteps", "1,2", "--engines", "cuda", "-x", str(out)])
    assert result.exit_code == 0, result.output
    (measured,) = json.loads(out.read_text())["models"]
    assert [(row["engine"], row["timesteps"]) for row in measured["latency"]] == [("cuda", 1), ("cuda", 2)]
    assert measured["layers"]["engine"] == "cuda" and measured["layers"]["roof"] is None
    assert all(row["seconds"]["value"] > 0 for row in measured["layers"]["layers"])


def test_warnings_say_what_they_are_of():
    noisy = Noise(1.0, None, None, 0.0, "", None, 2)
    one = SimpleNamespace(
        name="a.onnx", noises={"latency at batch 1, threads 2": noisy, "layers": replace(noisy, others=0.0)}
    )
    profile = inference.InferenceProfile("", None, {}, [one])
    said = "The machine was not quiet: other processes took 1 cores."
    assert profile.warnings == (f"Latency at batch 1, threads 2: {said}",)
    assert inference.InferenceProfile("", None, {}, [one, one]).warnings[0].startswith("a.onnx, latency at batch 1")


def test_as_many_threads_as_cores_are_the_most():
    assert ProfileSettings(("native",), (1,), threads=(usable_cores(),)).threads == (usable_cores(),)
