"""Sections of the search report: projected hours of searches, and what Early-Time saves, beside the paper's Table 3."""

from collections.abc import Mapping, Sequence

from spiketicket.profiling.report.document import Axis, Column, Lines, Point, Section, Series, Table
from spiketicket.profiling.search import paper
from spiketicket.profiling.search.projection import EARLY_TIME_EPOCHS, Epochs, Projection, hours

ByArch = Mapping[str, Mapping[int, float]]  # seconds per epoch by network and T


def hours_section(projections: Sequence[Projection], seconds: ByArch) -> Section:
    columns = (
        Column("network"),
        Column("method"),
        Column("p", form=".2%", means="zeros among all parameters"),
        Column("basis"),
        Column("hours", form=",.2f", means="as the paper counts"),
        Column("of epochs", means="epochs that are counted, and their T"),
        Column("paper's hours", form=".2f", means="supplementary, Table 3"),
        Column("hours in all", form=",.2f", means="all trainings of the plan, the ticket's own at full T included"),
        Column("of all epochs"),
        Column("EB stops at", "epoch", ".1f", "an input: what the paper's hours of EB amount to"),
    )
    rows = tuple(
        (
            p.plan.arch,
            p.method,
            p.plan.sparsity(p.prunings),
            "projected",
            hours(p.paper_epochs, seconds[p.plan.arch]),
            epochs_text(p.paper_epochs),
            p.printed_hours,
            hours(p.all_epochs, seconds[p.plan.arch]),
            epochs_text(p.all_epochs),
            None if p.stop is None else p.stop.epochs,
        )
        for p in projections
    )
    return Section(
        "hours",
        "Hours of a search, projected",
        _summary(projections, seconds),
        Table(columns, rows),
        tuple(_picture(projections, seconds, arch) for arch in dict.fromkeys(p.plan.arch for p in projections)),
        _notes(projections, seconds),
    )


def gain_section(projections: Sequence[Projection], seconds: ByArch) -> Section:
    columns = (
        Column("network"),
        Column("methods"),
        Column("p", form=".2%"),
        Column("basis"),
        Column("gain", form=".2f", means="hours without Early-Time over hours with it, as the paper counts"),
        Column("gain in all", form=".2f", means="of all trainings"),
        Column("paper's gain", form=".2f", means="as Table 3 prints it"),
        Column("from its hours", form=".2f", means="the quotient of the hours that Table 3 prints"),
    )
    rows = []
    for slow, fast in pairs(projections):
        epoch = seconds[slow.plan.arch]
        theirs = slow.printed_hours, fast.printed_hours
        rows.append(
            (
                slow.plan.arch,
                f"{fast.method} over {slow.method}",
                slow.plan.sparsity(slow.prunings),
                "projected",
                hours(slow.paper_epochs, epoch) / hours(fast.paper_epochs, epoch),
                hours(slow.all_epochs, epoch) / hours(fast.all_epochs, epoch),
                fast.printed_gain,
                theirs[0] / theirs[1] if theirs[0] and theirs[1] else None,
            )
        )
    in_all = [float(row[5]) for row in rows]
    says = (
        f"Counted as the paper does, every gain is that of an epoch at T = {projections[0].plan.early_timesteps} over "
        f"one at T = {projections[0].plan.timesteps}. With all trainings it is {min(in_all):.2f} to {max(in_all):.2f}."
    )
    notes = (
        "Table 3's gains for Early-Bird contradict its own hours at 95.69 and 98.13% of CIFAR-10's VGG16, and in all "
        "of SVHN's ResNet19, whose hours of EB+ET are those of its VGG16.",
    )
    return Section("gain", "What Early-Time gains, projected", says, Table(columns, tuple(rows)), (), notes)


def pairs(projections: Sequence[Projection]) -> list[tuple[Projection, Projection]]:
    """Return pairs of projections without and with Early-Time."""
    found = {(p.plan.arch, p.method, p.prunings): p for p in projections}
    return [(p, found[arch, f"{name}+ET", n]) for (arch, name, n), p in found.items() if not name.endswith("+ET")]


def epochs_text(epochs: Epochs) -> str:
    """Return epochs as a text: 1138 at T = 3, 282 at T = 5."""
    return ", ".join(f"{round(number, 1):g} at T = {t}" for t, number in sorted(epochs.items()))


def _summary(projections: Sequence[Projection], seconds: ByArch) -> str:
    sparsest = max(p.prunings for p in projections)
    sentences = []
    for slow, fast in pairs(projections):
        if slow.prunings == sparsest and slow.method == "IMP":
            epoch = seconds[slow.plan.arch]
            sentences.append(
                f"{slow.plan.arch} at p = {slow.plan.sparsity(sparsest):.2%}: IMP {hours(slow.all_epochs, epoch):,.1f} "
                f"hours in all, IMP+ET {hours(fast.all_epochs, epoch):,.1f}."
            )
    return " ".join(["Projected, not measured.", *sentences])


def _notes(projections: Sequence[Projection], seconds: ByArch) -> tuple[str, ...]:
    plan = projections[0].plan
    inputs = [
        f"{arch} {', '.join(f'{by_t[t]:,.1f} s at T = {t}' for t in (plan.early_timesteps, plan.timesteps))}"
        for arch, by_t in seconds.items()
    ]
    notes = [
        f"Inputs: seconds per epoch as measured here ({'; '.join(inputs)}); {plan.epochs} epochs per training, "
        f"rewinding to epoch {plan.rewind_epoch}, 25% pruned per round (the paper's); T_early = "
        f"{plan.early_timesteps}, chosen after {EARLY_TIME_EPOCHS} epochs at T = {plan.timesteps}; all training "
        "images, none held out.",
        "As the paper counts: prunings x epochs of a training x seconds per epoch, which gives the IMP rows of Table 3 "
        "from Table 1 within 5%; a ticket's own training is not in it. For Early-Bird, the epochs to its stop.",
    ]
    if any(p.stop for p in projections):
        notes.append(
            "The epoch at which Early-Bird stops is no measurement of ours but what the paper's hours of EB amount to, "
            "at Table 1's seconds; a run of your own (--run) shows yours."
        )
    if plan.dataset in ("svhn", "fashion_mnist"):
        notes.append(
            f"Table 3's hours follow from CIFAR's {paper.EPOCH} iterations per epoch for {plan.dataset} as well, which "
            "has more images: hours here are of all its iterations."
        )
    return tuple(notes)


def _picture(projections: Sequence[Projection], seconds: ByArch, arch: str) -> Lines:
    here = [p for p in projections if p.plan.arch == arch]
    series = []
    for method in dict.fromkeys(p.method for p in here):
        group = [p for p in here if p.method == method]
        points = tuple(Point(100 * p.plan.sparsity(p.prunings), hours(p.all_epochs, seconds[arch])) for p in group)
        series.append(Series(method, points))
    return Lines(
        Axis("p", "%", form=".2f"),
        Axis("hours in all, projected", log=True),
        tuple(series),
        f"Projected hours of all trainings against sparsity, {arch}",
    )
