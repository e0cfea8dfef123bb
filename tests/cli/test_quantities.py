"""Numbers with units: what is written is what is understood, and nothing else is taken."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnets.cli.format import COUNT, LATENCY, PER_CENT, SECONDS

QUANTITIES = [LATENCY, COUNT, PER_CENT, SECONDS]
thousandths = st.integers(1, 99_999).map(lambda number: number / 1000)


@given(st.sampled_from(QUANTITIES), st.data(), thousandths, st.sampled_from(["", " "]))
def test_round_trip(quantity, data, number, space):
    unit = data.draw(st.sampled_from(sorted(quantity.units)))
    value = quantity.convert(f"{number:.3f}{space}{unit}".strip(), None, None)
    assert value == pytest.approx(number * float(quantity.units[unit]), rel=1e-12)


@given(thousandths)
def test_units_are_exact(number):
    """Decimal arithmetic: no 4.999999999999 ms of 0.005 s."""
    assert LATENCY.convert(f"{number:.3f}ms", None, None) == number
    assert LATENCY.convert(f"{number / 1000:.6f}s", None, None) == number


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (LATENCY, "5ms", 5),
        (LATENCY, "5 ms", 5),
        (LATENCY, "0.005s", 5),
        (LATENCY, "250us", 0.25),
        (LATENCY, "250µs", 0.25),
        (COUNT, "4M", 4e6),
        (COUNT, "300M", 3e8),
        (COUNT, "1.5G", 1.5e9),
        (COUNT, "470k", 470_000),
        (COUNT, "4231976", 4_231_976),
        (PER_CENT, "75", 75),
        (PER_CENT, "75%", 75),
        (PER_CENT, "75.4 %", 75.4),
        (SECONDS, "2min", 120),
    ],
)
def test_examples(quantity, text, value):
    assert quantity.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("quantity", "text", "message"),
    [
        (LATENCY, "5", "'5' has no unit; use ms, us, µs, s, like 5ms or 0.005s"),
        (LATENCY, "5 MS", "has the unit 'MS'"),
        (LATENCY, "5ms2", "is no positive latency"),
        (LATENCY, "5  ms", "is no positive latency"),
        (LATENCY, "-5ms", "is no positive latency"),
        (LATENCY, "0ms", "must be above 0"),
        (LATENCY, "1e3ms", "has the unit 'e3ms'|is no positive latency"),
        (LATENCY, "5,5ms", "has the unit ',5ms'|is no positive latency"),
        (LATENCY, "", "is no positive latency"),
        (COUNT, "4m", "has the unit 'm'; use k, M, G, like 4M"),
        (COUNT, "nan", "is no positive number"),
        (COUNT, "٤M", "is no positive number"),
        (COUNT, "9" * 5000, "must be above 0 and at most"),
        (PER_CENT, "101", "must be above 0 and at most 100"),
        (PER_CENT, "0.75x", "has the unit 'x'"),
    ],
)
def test_refused(quantity, text, message):
    with pytest.raises(click.BadParameter, match=message):
        quantity.convert(text, None, None)
