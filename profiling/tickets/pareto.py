"""The Pareto front of points with a cost and a value."""

from collections.abc import Sequence


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Return for each point whether it is on the front: no other costs at most as much and is worth at least as much,
    one of them strictly.

    Equal points are on the front together.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    found = [False] * len(costs)
    best: tuple[float, float] | None = None  # value and cost of the cheapest point of the best value so far
    for i in order:
        if best is None or values[i] > best[0]:
            best = values[i], costs[i]
        found[i] = (values[i], costs[i]) == best
    return found
