"""Options that are lists separated by commas; a repeated entry counts once."""

from spiketicket.errors import InputError


def split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in split(text)]
    except ValueError as error:
        raise InputError(f"expected numbers separated by commas, got {text!r}") from error


def whole(text: str) -> list[int]:
    try:
        return [int(part) for part in split(text)]
    except ValueError as error:
        raise InputError(f"expected whole numbers separated by commas, got {text!r}") from error
