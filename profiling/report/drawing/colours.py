"""The colours of reports on a light and on a dark background.

The seven colours of marks were searched for: every two of them are at least 0.12 apart in OKLab for normal sight and
for protanopia, deuteranopia and tritanopia (Machado et al. 2009), and each has a contrast of at least 3 to its
background.
"""

MARKS = 7

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "faint": "#57606a",
    "rule": "#d0d7de",
    "shade": "#f3f5f7",
    "link": "#0550ae",
    "alarm": "#8a4600",
    "alarm-paper": "#fff4e0",
    "c0": "#2296ec",
    "c1": "#916130",
    "c2": "#204816",
    "c3": "#64046a",
    "c4": "#c0852b",
    "c5": "#117b8c",
    "c6": "#6937b8",
}
DARK = {
    "paper": "#111418",
    "ink": "#e6edf3",
    "faint": "#9ba5b0",
    "rule": "#343b44",
    "shade": "#1b2027",
    "link": "#79b8ff",
    "alarm": "#f5c07a",
    "alarm-paper": "#33260f",
    "c0": "#5fa8f0",
    "c1": "#c64023",
    "c2": "#a1d796",
    "c3": "#fa61a5",
    "c4": "#be9c1e",
    "c5": "#00fdff",
    "c6": "#a33fc2",
}


def mark_colour(index: int) -> str:
    """Return the CSS value of the colour of series or part `index`."""
    return f"var(--c{index % MARKS})"
