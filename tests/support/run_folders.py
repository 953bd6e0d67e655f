"""Run folders written by hand, for tests of their readers."""

import json

SETTINGS = {
    "method": "imp",
    "arch": "vgg16",
    "dataset": "cifar10",
    "timesteps": 5,
    "rounds": 3,
    "sparsity": None,
    "epochs": 4,
    "rewind_epoch": 1,
    "seed": 0,
    "early_time": False,
    "threads": 2,
}


def write_run(folder, events, tail="", **settings):
    """Write a run folder whose log has these events, followed by the text `tail`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({**SETTINGS, **settings}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + tail)
    (folder / ".lock").touch()
    return folder


def plan(*stages):
    """Return the event of a plan; stages are (round, kind, epochs, timesteps, sparsity)."""
    names = ("round", "kind", "epochs", "timesteps", "sparsity")
    return {"event": "plan", "stages": [dict(zip(names, stage, strict=True)) for stage in stages]}


def epochs(index, kind, count, timesteps, seconds, first=0, **fields):
    """Return the events of `count` epochs of a training, from the epoch `first` on."""
    return [
        {
            "event": "epoch",
            "round": index,
            "kind": kind,
            "epoch": epoch,
            "timesteps": timesteps,
            "lr": 0.3,
            "loss": 2.0 / (epoch + 1),
            "train_accuracy": 0.5,
            "validation_accuracy": None,
            "seconds": seconds,
            **fields,
        }
        for epoch in range(first, first + count)
    ]


def ticket(index, kind, sparsity, test_accuracy, search_seconds, **fields):
    """Return the event of a ticket."""
    return {
        "event": "ticket",
        "round": index,
        "kind": kind,
        "sparsity": sparsity,
        "sparsity_prunable": sparsity,
        "test_accuracy": test_accuracy,
        "validation_accuracy": 0.9,
        "search_seconds": search_seconds,
        "final_seconds": 0.0,
        "timesteps": 5,
        "fingerprint": "ab12",
        **fields,
    }


IMP = [
    plan((0, "search", 4, 5, 0.0), (1, "search", 3, 5, 0.25), (2, "search", 3, 5, 0.437)),
    *epochs(0, "search", 4, 5, 10.0),
    ticket(0, "search", 0.0, 0.93, 40.0),
    *epochs(1, "search", 3, 5, 10.0, first=1),
    ticket(1, "search", 0.25, 0.92, 70.0),
    *epochs(2, "search", 3, 5, 10.0, first=1),
    ticket(2, "search", 0.437, 0.91, 100.0),
]
