"""Reading of options that are lists separated by commas. A repeated entry counts once."""

from spiketicket.errors import InputError


def split(text: str) -> list[str]:
    """Return the entries of a list, without empty ones."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(text: str) -> list[float]:
    """Return a list of numbers. Raises InputError if an entry is none."""
    try:
        return [float(part) for part in split(text)]
    except ValueError as error:
        raise InputError(f"expected numbers separated by commas, got {text!r}") from error


def integers(text: str) -> list[int]:
    """Return a list of whole numbers. Raises InputError if an entry is none."""
    try:
        return [int(part) for part in split(text)]
    except ValueError as error:
        raise InputError(f"expected integers numbers separated by commas, got {text!r}") from error
