"""Small profiles written by hand, in the form of `snn-profile -x`, and the schema that they follow."""

import json
from pathlib import Path

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "profile.schema.json").read_text())


def check_schema(data):
    """Assert that a profile follows the schema."""
    jsonschema.Draft202012Validator(SCHEMA).validate(data)


def latency(engine="native", timesteps=1, p50=1.0, wide=0.02, batch=1, threads=1):
    """Return one row of latency, whose interval is `wide` of the median on each side."""
    ms = {
        "n": 100,
        "min": 0.9 * p50,
        "p50": p50,
        "p90": 1.1 * p50,
        "p95": 1.2 * p50,
        "p99": 1.5 * p50,
        "low": p50 * (1 - wide),
        "high": p50 * (1 + wide),
        "spread": 0.05,
    }
    return {
        "engine": engine,
        "timesteps": timesteps,
        "batch": batch,
        "threads": threads,
        "ms": ms,
        "images_per_second": 1000 * batch / p50,
        "speed": {"value": 1.0, "low": 1.0, "high": 1.0},
    }


def model(name="a.onnx", rows=(), accuracies=()):
    """Return the profile of one model; `accuracies` are pairs of T and accuracy."""
    known = [{"timesteps": t, "accuracy": a, "low": a - 0.01, "high": a + 0.01} for t, a in accuracies]
    return {"name": name, "file_bytes": 1000, "accuracy": known, "latency": list(rows)}


def profile(*models, machine=None, warnings=()):
    """Return a profile of several models."""
    return {
        "format": "spiketicket.profile",
        "version": 1,
        "kind": "inference",
        "machine": machine or {"cpu": "x"},
        "warnings": list(warnings),
        "models": list(models),
    }
