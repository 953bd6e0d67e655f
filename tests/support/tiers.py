"""Test parameters of which only some run in the fast tier; pyproject.toml has the markers of the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def beyond_the_first(mark: Any, values: Iterable[Any]) -> list[Any]:
    """Return the parameters with `mark` on all but the first, which stays in the fast tier."""
    first, *others = values
    return [
        first,
        *(
            pytest.param(*value, marks=mark) if type(value) is tuple else pytest.param(value, marks=mark)
            for value in others
        ),
    ]
