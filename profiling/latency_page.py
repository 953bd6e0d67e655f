"""A latency report as a table for the terminal and as one self-contained HTML page."""

from pathlib import Path

from rich.table import Table

from spiketicket.errors import MissingExtraError
from spiketicket.files import write_atomic
from spiketicket.profiling.latency import LatencyReport, Row

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 120, 16, 44


def latency_table(report: LatencyReport) -> Table:
    """The rows of a report for the terminal."""
    table = Table(title=f"Milliseconds per image, batch {report.batch}, {report.threads} threads")
    table.add_column("engine")
    for column in (
        "T",
        "p50",
        "p90",
        "p99",
        "n",
        "per +1 T",
        f"speed vs {report.rows[0].engine}",
    ):
        table.add_column(column, justify="right")
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def write_html(report: LatencyReport, path: Path) -> None:
    """Write the report as an HTML page that needs no network. Raises MissingExtraError without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "the HTML report") from error
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("latency_page.html.j2").read_text()
    )
    page = template.render(report=report, chart=Chart(report), rows=[_cells(row) for row in report.rows])
    write_atomic(path, page.encode())


def _cells(row: Row) -> tuple[str, ...]:
    s = row.latency
    return (
        row.engine, str(row.timesteps), f"{s.p50:.3f}", f"{s.p90:.3f}", f"{s.p99:.3f}", str(s.n),
        "" if row.marginal is None else f"{row.marginal:+.3f}", f"{row.ratio:.2f}x",
    )  # fmt: skip


class Chart:
    """Median latency against T, one line per engine, in SVG coordinates."""

    def __init__(self, report: LatencyReport) -> None:
        self.width, self.height = WIDTH, HEIGHT
        self.left, self.right, self.top, self.bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        steps = sorted({row.timesteps for row in report.rows})
        self.first, self.last = steps[0], max(steps[-1], steps[0] + 1)
        slowest = max(row.latency.p50 for row in report.rows)
        self.tick_size = _round_step(slowest)
        self.highest = self.tick_size * (int(slowest / self.tick_size) + 1)
        self.x_ticks = [(self.x(t), t) for t in steps]
        self.y_ticks = [
            (self.y(i * self.tick_size), f"{i * self.tick_size:.3g}")
            for i in range(round(self.highest / self.tick_size) + 1)
        ]
        self.lines = [
            (
                engine,
                [(self.x(row.timesteps), self.y(row.latency.p50)) for row in report.rows if row.engine == engine],
            )
            for engine in dict.fromkeys(row.engine for row in report.rows)
        ]

    def x(self, timesteps: float) -> float:
        return round(self.left + (self.right - self.left) * (timesteps - self.first) / (self.last - self.first), 1)

    def y(self, ms: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * ms / self.highest, 1)


def _round_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, so that four to ten of them reach `highest`."""
    power = 10.0 ** (len(f"{int(highest)}") - 1) if highest >= 1 else 1.0
    while power > highest:
        power /= 10
    return next(step for step in (power / 5, power / 2, power, 2 * power) if highest / step <= 8)
