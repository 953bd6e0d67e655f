"""The sections of an inference report, one function for each."""

from collections.abc import Sequence

from spiketicket.profiling.inference.accuracy import settled
from spiketicket.profiling.inference.latency import MS, Latency
from spiketicket.profiling.inference.profile import ModelProfile
from spiketicket.profiling.measure.timing import ratio
from spiketicket.profiling.report.document import Axis, Column, Lines, Point, Section, Series, Table

MS_AXIS = Axis("median of a run", "ms", form="g")


def latency_section(models: Sequence[ModelProfile], percentiles: Sequence[float]) -> Section:
    """Return the section on the latency of every engine at every T, batch and number of threads."""
    rows = [(model.name, row) for model in models for row in model.latency.rows]
    columns = (
        Column("model"),
        Column("engine"),
        Column("T", form="d", means="timesteps"),
        Column("batch", form="d", means="images per run"),
        Column("threads", form="d"),
        Column("median", "ms", ".3f", "of a run, all images of the batch together"),
        Column("low", "ms", ".3f", "of its 95% interval, by the medians of rounds"),
        Column("high", "ms", ".3f"),
        *(Column(f"p{p:g}", "ms", ".3f") for p in percentiles if p != 50),
        Column("min", "ms", ".3f"),
        Column("spread", form=".1%", means="interquartile range / median"),
        Column("n", form=",d", means="timed runs"),
        Column("images/s", form=",.0f", means="batch / median"),
        Column("one more T", "ms", "+.3f", "median more than with the next fewer timesteps, per timestep added"),
        Column("at least", "ms", "+.3f", "low end of its 95% interval, by pairs of rounds"),
        Column("at most", "ms", "+.3f"),
        Column("speed", form=".2f", means="times as fast as the first engine at this T"),
    )
    table = Table(columns, tuple(_latency_cells(name, row, percentiles) for name, row in rows))
    missing = [f"{engine} was not measured: {why}" for m in models for engine, why in m.latency.missing.items()]
    notes = (
        "All engines and T of one batch and number of threads were timed in turns, in random order, each run on the "
        "next of up to 32 different images.",
        *dict.fromkeys(missing),
    )
    picture = _latency_picture(models)
    title = "Latency by timesteps"
    return Section("latency", title, _latency_sentence(models), table, (picture,) if picture else (), notes)


def _latency_cells(name: str, row: Latency, percentiles: Sequence[float]) -> tuple[str | int | float | None, ...]:
    timing, median = row.timing, row.timing.median()
    return (
        name,
        row.engine,
        row.timesteps,
        row.batch,
        row.threads,
        MS * median.value,
        MS * median.low,
        MS * median.high,
        *(MS * timing.quantile(p / 100) for p in percentiles if p != 50),
        MS * timing.min,
        timing.spread,
        timing.n,
        row.images_per_second(),
        None if row.marginal is None else MS * row.marginal.value,
        None if row.marginal is None else MS * row.marginal.low,
        None if row.marginal is None else MS * row.marginal.high,
        row.speed.value,
    )


def _first_group(model: ModelProfile) -> list[Latency]:
    """Return the rows of the first batch and number of threads."""
    first = model.latency.rows[0]
    return [row for row in model.latency.rows if (row.batch, row.threads) == (first.batch, first.threads)]


def _by_engine(rows: Sequence[Latency]) -> dict[str, list[Latency]]:
    engines: dict[str, list[Latency]] = {}
    for row in rows:
        engines.setdefault(row.engine, []).append(row)
    return engines


def _latency_picture(models: Sequence[ModelProfile]) -> Lines | None:
    if len(models[0].latency.rows) < 2:
        return None
    series = []
    for model in models:
        for engine, rows in _by_engine(_first_group(model)).items():
            name = engine if len(models) == 1 else f"{model.name}, {engine}"
            points = []
            for row in rows:
                m = row.timing.median().scaled(MS)
                points.append(Point(row.timesteps, m.value, m.low, m.high))
            series.append(Series(name, tuple(points)))
    first = models[0].latency.rows[0]
    what = f"batch {first.batch}, threads {first.threads}, a line per engine"
    alt = f"Median milliseconds of a run against timesteps, {what}"
    return Lines(Axis("timesteps T", form="d"), MS_AXIS, tuple(series), alt)


def _latency_sentence(models: Sequence[ModelProfile]) -> str:
    return " ".join(map(_fastest_sentence, models))


def _fastest_sentence(model: ModelProfile) -> str:
    last = [rows[-1] for rows in _by_engine(_first_group(model)).values()]
    fastest, *others = sorted(last, key=lambda row: row.timing.median().value)
    where = (
        f"at T = {fastest.timesteps} with {MS * fastest.timing.median().value:.3g} ms (batch {fastest.batch}, "
        f"threads {fastest.threads})"
    )
    text = f"{model.name}: {fastest.engine} is fastest {where}"
    if others:
        second = others[0]
        times = ratio(second.timing, fastest.timing)
        if times.low > 1:
            text += f"; {second.engine}, the next, takes {times.value:.2f} times as long"
        else:
            text = (
                f"{model.name}: {fastest.engine} is ahead {where}, but cannot be distinguished from {second.engine} "
                f"(ratio {times.low:.2f} to {times.high:.2f})"
            )
    if fastest.marginal is not None:
        text += f"; its last timestep costs {MS * fastest.marginal.value:.3g} ms"
    return text + "."


def first_logits_section(models: Sequence[ModelProfile]) -> Section | None:
    """Return the section on the time to the first logits, or None if it was not measured."""
    rows = [(model, row) for model in models for row in model.latency.first]
    if not rows:
        return None
    cells = []
    for model, row in rows:
        whole = next(
            r
            for r in reversed(model.latency.rows)
            if (r.engine, r.batch, r.threads) == ("native", row.batch, row.threads)
        )
        first, last = (MS * timed.timing.median().value for timed in (row, whole))
        cells.append((model.name, row.batch, row.threads, first, last, whole.timesteps))
    columns = (
        Column("model"),
        Column("batch", form="d"),
        Column("threads", form="d"),
        Column("first logits", "ms", ".3f", "native, one timestep after the other"),
        Column("all timesteps", "ms", ".3f", "native, in one run"),
        Column("T", form="d"),
    )
    name, _, _, first, whole_ms, steps = cells[0]
    says = f"{name}: the logits of the first timestep take {first:.3g} ms, those of all {steps} {whole_ms:.3g} ms."
    note = "Other engines return logits only when all timesteps are computed."
    return Section("first-logits", "Time to first logits", says, Table(columns, tuple(cells)), (), (note,))


def throughput_section(models: Sequence[ModelProfile]) -> Section | None:
    """Return the section on images per second with several streams, or None if it was not measured."""
    rows = [(model.name, row) for model in models for row in model.throughput]
    if not rows:
        return None
    columns = (
        Column("model"),
        Column("engine"),
        Column("T", form="d"),
        Column("batch", form="d"),
        Column("streams", form="d", means="threads that run batches at the same time, each on one core"),
        Column("images/s", form=",.0f"),
        Column("low", form=",.0f", means="of its 95% interval"),
        Column("high", form=",.0f"),
    )
    cells = tuple(
        (
            name,
            r.engine,
            r.timesteps,
            r.batch,
            r.streams,
            r.images_per_second.value,
            r.images_per_second.low,
            r.images_per_second.high,
        )
        for name, r in rows
    )
    name, best = max(rows, key=lambda pair: pair[1].images_per_second.value)
    says = (
        f"With {best.streams} streams, the most are {best.images_per_second.value:,.0f} images per second: {name} in "
        f"{best.engine}."
    )
    return Section("throughput", "Throughput", says, Table(columns, cells))


def accuracy_section(models: Sequence[ModelProfile]) -> Section | None:
    """Return the section on accuracy by T and with early exit, against their cost, or None without labels."""
    known = [model for model in models if model.accuracy]
    if not known:
        return None
    columns = (
        Column("model"),
        Column("T", form=".3g", means="timesteps; of early exit, their mean"),
        Column("margin", form="g", means="early exit: how much the best mean logit must exceed the second"),
        Column("accuracy", form=".2%"),
        Column("low", form=".1%", means="of Wilson's 95% interval"),
        Column("high", form=".1%"),
        Column("latency", "ms", ".3f", "median per image, native, batch 1"),
    )
    cells: list[tuple[str | float | None, ...]] = []
    series = []
    for model in known:
        ms = {float(row.timesteps): MS * row.timing.median().value for row in _native_alone(model)}
        fixed = [
            (None, row.timesteps, row.accuracy, ms.get(row.timesteps), f"T={row.timesteps}") for row in model.accuracy
        ]
        costs = model.exit_ms() if model.latency.exits else {}
        left = [(e.margin, e.timesteps, e.accuracy, costs.get(e.margin), f"margin {e.margin:g}") for e in model.exits]
        for margin, steps, a, cost, _ in (*fixed, *left):
            cells.append((model.name, steps, margin, a.accuracy, a.low, a.high, cost))
        label = "" if len(known) == 1 else f"{model.name}, "
        for name, rows in ((f"{label}fixed T", fixed), (f"{label}early exit", left)):
            points = tuple(
                Point(cost, 100 * a.accuracy, 100 * a.low, 100 * a.high, text)
                for _, _, a, cost, text in rows
                if cost is not None
            )
            series += [Series(name, points)] if points else []
    alt = "Accuracy in percent against milliseconds per image, of every fixed T and of early exit at several margins"
    x, y = Axis("latency per image, native", "ms"), Axis("accuracy", "%")
    notes = (
        "With early exit, an image stops at the first timestep at which its best mean logit exceeds the second by "
        "the margin. Accuracy and mean T are those of all images; latency is that of the timed ones, one by one.",
        "Early exit takes one timestep per call, which costs more than all of them in one run: it pays if its point is "
        "above the curve of fixed T.",
    )
    return Section(
        "accuracy",
        "Accuracy against latency",
        " ".join(map(_accuracy_sentence, known)),
        Table(columns, tuple(cells)),
        (Lines(x, y, tuple(series), alt),) if series else (),
        notes,
    )


def _accuracy_sentence(model: ModelProfile) -> str:
    last = model.accuracy[-1]
    enough = settled(model.accuracy)
    text = f"{model.name} ({model.samples.source}): {last.accuracy.accuracy:.2%} at T = {last.timesteps}"
    if enough.timesteps < last.timesteps:
        text += f"; from T = {enough.timesteps} on ({enough.accuracy.accuracy:.2%}) that is within the interval"
    return f"{text}. {_exit_sentence(model)}".strip()


def _exit_sentence(model: ModelProfile) -> str:
    """Return the sentence on the margins with which early exit is better than every fixed T.

    It is better if no fixed T is as accurate in as little time.
    """
    costs = model.exit_ms() if model.latency.exits else {}
    fixed = {float(row.timesteps): MS * row.timing.median().value for row in _native_alone(model)}
    if not costs or not fixed:
        return ""
    paying = [
        leaving.margin
        for leaving in model.exits
        if leaving.margin in costs
        and not any(
            row.accuracy.accuracy >= leaving.accuracy.accuracy and fixed[row.timesteps] <= costs[leaving.margin]
            for row in model.accuracy
            if row.timesteps in fixed
        )
    ]
    if not paying:
        return "Early exit does not pay here: for every margin there is a fixed T as accurate in less time."
    margins = " and ".join(f"{margin:g}" for margin in paying)
    return f"Early exit with a margin of {margins} is better than any fixed T of this accuracy."


def _native_alone(model: ModelProfile) -> list[Latency]:
    """Return the rows of the native engine at batch 1, with the first number of threads."""
    rows = [row for row in model.latency.rows if row.engine == "native" and row.batch == 1]
    return [row for row in rows if row.threads == rows[0].threads]
