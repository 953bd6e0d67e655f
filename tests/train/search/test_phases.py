"""Phases of a training: what is read, written, and left of them."""

import pytest

from spiketicket.errors import InputError
from spiketicket.train.search.phases import Phase, count_epochs, format_phases, parse_phases, phase_at, phases_from


def test_reading_and_writing():
    phases = parse_phases("phases", "1x8@16, 1x6,5x2")
    assert phases == (Phase(1, 8, 16), Phase(1, 6), Phase(5, 2))
    assert format_phases(phases) == "1x8@16,1x6,5x2"
    assert count_epochs(phases) == 16


@pytest.mark.parametrize(
    "text", ["", "5", "5x", "x5", "0x5", "5x0", "5x2@", "5x2@0", "1x2,,3x4", "1x2;3x4", "-1x2", "1.5x2"]
)
def test_what_is_no_phase(text):
    with pytest.raises(InputError, match=r"^phases: expected TIMESTEPSxEPOCHS .* got"):
        parse_phases("phases", text)


def test_the_phase_of_an_epoch():
    phases = parse_phases("phases", "1x2,3x1,5x2")
    assert [phase_at(phases, epoch).timesteps for epoch in range(7)] == [1, 1, 3, 5, 5, 5, 5]


def test_what_is_left():
    phases = parse_phases("phases", "1x2@16,3x1,5x2")
    assert [format_phases(phases_from(phases, epoch)) for epoch in range(6)] == [
        "1x2@16,3x1,5x2",
        "1x1@16,3x1,5x2",
        "3x1,5x2",
        "5x2",
        "5x1",
        "",
    ]
