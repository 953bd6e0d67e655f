"""Parameters that the fast tier leaves to the full one, by the markers of cost in pyproject.toml."""

from collections.abc import Iterable
from typing import Any

import pytest


def beyond_the_first(mark: Any, values: Iterable[Any]) -> list[Any]:
    """Return parameters of which the first one stays in the fast tier, and all others have `mark`."""
    first, *others = values
    return [
        first,
        *(
            pytest.param(*value, marks=mark) if type(value) is tuple else pytest.param(value, marks=mark)
            for value in others
        ),
    ]
