"""docs/api.md says what the docstrings say."""

from tests.support.api_page import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "docs/api.md is old: run `python -m tests.support.api_page`"
