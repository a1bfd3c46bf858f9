"""Weekly windows: which minutes of the week they hold."""

from __future__ import annotations

import pytest

from flexi.catalog.windows import contains, parse


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Sun 02:00-05:00", [(7, 120), (7, 299)], [(7, 119), (7, 300), (6, 150)]),
        ("Mon-Fri 22:30-04:00", [(1, 1350), (2, 0), (6, 239)], [(6, 240), (6, 1350), (7, 0), (1, 239)]),
        ("Sat,Sun 00:00-23:59", [(6, 0), (7, 1438)], [(7, 1439), (5, 600)]),
        ("Sun 23:00-01:00", [(7, 1380), (1, 59)], [(1, 60), (7, 0)]),
        ("daily 03:00-04:00", [(day, 200) for day in range(1, 8)], [(1, 240)]),
        ("Sat-Mon 01:00-02:00", [(6, 60), (7, 60), (1, 60)], [(2, 60), (5, 60)]),
    ],
)
def test_minutes(text: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]) -> None:
    window = parse(text)
    assert all(contains(window, *moment) for moment in inside)
    assert not any(contains(window, *moment) for moment in outside)


@pytest.mark.parametrize(
    "text", ["", "Sunday 02:00-05:00", "Sun 2:00-5:00", "Sun 24:00-25:00", "So 02:00-03:00", "Sun 02:00-02:00", "Sun"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"no window|no day|never open"):
        parse(text)
