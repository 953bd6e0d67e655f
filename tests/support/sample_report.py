"""A report that contains everything its writers must handle."""

import random

from spiketicket.profiling.report.document import Axis, Bars, Cell, Column, Lines, Point, Report, Section, Series, Table

ENGINES = {"native": 0.31, "onnxruntime/folded": 1.42, "onnxruntime/unrolled": 1.61, "openvino": 1.18}
NETWORKS = ("dense", "IMP 90 %", "IMP 98.13 %")
LONG = "stage_3.block_2.branch.conv_sparse_7"
MS = Axis("median latency", "ms per image", form=".1f")
T = Axis("timesteps T", form="d")


def sample_report() -> Report:
    return Report(
        kind="inference",
        title="vgg16-98.13-imp.onnx: what a timestep costs",
        lead="One image at a time, on one thread of one machine; engines and timesteps were measured in turn.",
        sections=(_latency(), _layers(), _accuracy(), _pareto(), _search()),
        data={"schema": 1, "rows": [{"engine": "native", "timesteps": 1, "ms": 0.31}], "text": "</script><b>&"},
        warnings=("another process took 38 % of the CPU's time: the figures may be too high.",),
        facts={
            "Model": {"file": "vgg16-98.13-imp.onnx", "fingerprint": "9f2c" * 16, "weights left": "274,912 of 14.7 M"},
            "Machine": {"CPU": "AMD EPYC 7763 64-Core Processor, AVX2", "frequency scaling": "not known in here"},
        },
    )


def _latency() -> Section:
    noise = random.Random(1)
    rows: list[tuple[Cell, ...]] = []
    series = []
    for name, base in ENGINES.items():
        points = []
        for t in range(1, 6):
            median = base * (0.55 + 0.45 * t) * noise.uniform(0.97, 1.04)
            low, high = median * 0.93, median * 1.12
            points.append(Point(t, median, low, high))
            rows.append((name, t, median, low, high, 412 - 7 * t, None if t == 1 else median - points[-2].y))
        series.append(Series(name, tuple(points)))
    columns = (
        Column("engine"),
        Column("T", "", "d", "timesteps per image"),
        Column("p50", "ms", ".3f", "median latency of one image"),
        Column("low", "ms", ".3f", "lower end of the 95 % interval of the median"),
        Column("high", "ms", ".3f", "its upper end"),
        Column("n", "", ",d", "timed runs"),
        Column("per further T", "ms", "+.3f", "what this timestep costs beyond the one before"),
    )
    return Section(
        "latency",
        "Latency by timesteps",
        "At T = 5 the native engine takes 0.87 ms per image, a quarter of what the fastest rival takes.",
        Table(columns, tuple(rows)),
        (Lines(T, MS, tuple(series), "Latency grows linearly with T in all four engines; native is lowest."),),
        ("Intervals are of the median, by bootstrap over rounds.",),
    )


def _layers() -> Section:
    noise = random.Random(2)
    names = ("name", "kind", "shape")
    figures = (
        Column("time", "ms", ".3f", "median of this layer, of one image"),
        Column("share", "", ".1%", "of the time of all layers"),
        Column("spikes", "", ",d", "per image"),
        Column("firing rate", "", ".2%", "mean spikes per neuron and timestep"),
        Column("Effective_MACs", "", ",d"),
        Column("Effective_ACs", "", ",d", "additions that were needed"),
        Column("Dense", "operations", ",d"),
        Column("ConnectionSparsity", "", ".2%"),
        Column("memory traffic", "kB", ",.0f"),
    )
    rows: list[tuple[Cell, ...]] = []
    bars: dict[str, list[float]] = {"sparse product": [], "neurons": [], "batch norm | <fused>": []}
    for i in range(16):
        parts = [noise.uniform(0.01, 0.08), noise.uniform(0.002, 0.02), 0.0 if i % 3 else noise.uniform(0.001, 0.01)]
        for lengths, part in zip(bars.values(), parts, strict=True):
            lengths.append(part)
        rows.append(
            (
                LONG if i == 7 else f"features.{i}.conv_{i}",
                "SparseConv" if i < 13 else "SparseLinear",
                f"[{64 << i // 4}, 32]",
                sum(parts),
                sum(parts) / 0.9,
                int(9000 * noise.random()),
                noise.uniform(0.001, 0.2),
                1_769_472 if i == 0 else 0,
                int(4e6 * noise.random()),
                37_748_736,
                noise.uniform(0.9, 0.999),
                120 * noise.random(),
            )
        )
    labels = tuple(str(row[0]) for row in rows)
    picture = Bars(
        Axis("time", "ms", form=".3f"),
        labels,
        {name: tuple(lengths) for name, lengths in bars.items()},
        "A bar per layer; in most of them the sparse product takes more than two thirds of the time.",
    )
    table = Table((*map(Column, names), *figures), tuple(rows))
    note = "Layer times are measured with a clock in between, which costs about 2 % of the whole."
    return Section(
        "layers", "Time and work by layer", "The first layers take half of the time.", table, (picture,), (note,)
    )


def _accuracy() -> Section:
    rows: list[tuple[Cell, ...]] = []
    series = []
    for i, name in enumerate(NETWORKS):
        points = []
        for t in range(1, 6):
            ms, accuracy = (2.9, 0.8, 0.31)[i] * (0.5 + 0.5 * t), 0.93 - 0.05 / t**1.5 - 0.004 * i
            points.append(Point(ms, accuracy, accuracy - 0.005, accuracy + 0.005, f"T {t}"))
            rows.append((name, t, ms, accuracy, t == 4))
        series.append(Series(name, tuple(points)))
    columns = (
        Column("network"),
        Column("T", "", "d"),
        Column("p50", "ms", ".3f"),
        Column("accuracy", "", ".2%"),
        Column("chosen"),
    )
    return Section(
        "accuracy",
        "Accuracy against latency",
        "The sparsest ticket at T = 4 is as accurate as the dense network at T = 2 and six times faster.",
        Table(columns, tuple(rows)),
        (
            Lines(
                Axis("median latency", "ms per image", log=True),
                Axis("accuracy", form=".0%"),
                tuple(series),
                "Three curves rise and level off; the sparser the network, the further left.",
            ),
        ),
    )


def _pareto() -> Section:
    noise = random.Random(3)
    rows: list[tuple[Cell, ...]] = []
    kinds: dict[str, list[Point]] = {"IMP": [], "early-bird": [], "random": []}
    for i in range(24):
        density, method = 10 ** noise.uniform(-2, 0), list(kinds)[i % 3]
        accuracy = 0.94 - 0.012 / density**0.45 - 0.01 * (i % 3) - 0.004 * noise.random()
        on_front = i in (0, 3, 9, 12, 21)
        kinds[method].append(Point(density, accuracy, label=f"{method} {density:.1%}" if on_front else ""))
        rows.append((f"{method}-{i}", method, density, accuracy, on_front))
    columns = (
        Column("ticket"),
        Column("method"),
        Column("density", "", ".1%", "share of weights left"),
        Column("accuracy", "", ".2%"),
        Column("on the front", means="no other ticket is smaller and more accurate"),
    )
    picture = Lines(
        Axis("density", log=True, form=".0%"),
        Axis("accuracy", form=".0%"),
        tuple(Series(name, tuple(points), joined=False) for name, points in kinds.items()),
        "24 tickets; accuracy falls below a density of 5 %.",
    )
    return Section("tickets", "All tickets", "Five tickets are on the front.", Table(columns, tuple(rows)), (picture,))


def _search() -> Section:
    columns = (
        Column("round", "", "d"),
        Column("what happened"),
        Column("time", "s", ",.1f"),
        Column("loss", "", ".4f"),
    )
    rows: tuple[tuple[Cell, ...], ...] = (
        (1, "trained", 12903.25, 0.4127),
        (2, "pruned 20 % of a_b | *all* weights & rewound to [epoch 2] {seed_0} $5 ~3 #1 \\ ^ <i>", 10021.5, -0.0003),
        (10, "", 98.0, 1e-05),
        (11, "stopped: out of time", 1.5, None),
    )
    return Section(
        "search", "Where the search's time went", "Training takes 98 % of it.", Table(columns, rows), (), ("One run.",)
    )
