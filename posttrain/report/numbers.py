"""Numbers as people read them: a unit decides the digits, a difference always carries its sign."""

import re
from math import isfinite, isnan

from posttrain.schema.findings import Metric

from .compare import Change

SI = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SHORT = {"count": "", "ratio": "", "tokens/s": "tok/s"}


def value(metric: Metric) -> str:
    """A metric's number with its unit.

    >>> value(Metric(0.625)), value(Metric(9_640_000, unit="bytes")), value(Metric(1234.5, unit="tokens/s"))
    ('62.5 %', '9.6 MB', '1,234 tok/s')
    """
    return measured(metric.value, metric.unit)


def measured(number: float, unit: str) -> str:
    """A number with its unit."""
    return " ".join(filter(None, _parts(number, unit)))


def interval(low: float | None, high: float | None, unit: str) -> str:
    """`58.1 – 66.7 %`, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    (first, scale), (last, last_scale) = _parts(low, unit), _parts(high, unit)
    first = first if scale == last_scale else f"{first} {scale}"
    return f"{first} – {last} {last_scale}".rstrip()


def difference(number: float, unit: str) -> str:
    """A signed number; shares differ in points, as per cent of per cent is what nobody means.

    >>> difference(0.125, "share"), difference(-2e6, "bytes"), difference(0.0, "nats")
    ('+12.5 points', '−2.0 MB', '±0 nats')
    """
    digits, scale = _parts(abs(number), unit)
    scale = "points" if unit == "share" else scale
    zero = not any(digit in "123456789" for digit in digits) and isfinite(number)
    digits = "±0" if zero else f"{'+' if number > 0 else '−'}{digits}"
    return f"{digits} {scale}".rstrip()


def difference_interval(change: Change) -> str:
    """`+4.0 to +20.9` in the unit of the difference, or nothing where there is no interval."""
    if change.low is None or change.high is None:
        return ""
    unit = change.after.unit
    tail = " points" if unit == "share" else f" {suffix(unit)}"
    return " to ".join(difference(end, unit).removesuffix(tail) for end in (change.low, change.high))


def arrow(change: Change) -> str:
    """Which way the number went, where the change is clear. The word beside it says whether that is good."""
    if change.verdict == "no clear change":
        return "≈"
    return "▲" if change.difference > 0 else "▼"


def seconds(number: float) -> str:
    """A duration in at most two units.

    >>> seconds(0.42), seconds(161), seconds(3780)
    ('0.4 s', '2 min 41 s', '1 h 03 min')
    """
    if number < 60:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def chance(p: float) -> str:
    """A p value, never claimed to be zero."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def plain(number: float) -> str:
    """A number without a unit, at most four digits that count."""
    return _parts(number, "")[0]


def suffix(unit: str) -> str:
    """What stands behind a number; units come from measures anyone may write, so nothing but a short word passes."""
    return SHORT[unit] if unit in SHORT else re.sub(r"[^\w/ ]", "", unit)[:16]


def _parts(number: float, unit: str) -> tuple[str, str]:
    """The digits and what stands behind them."""
    name = suffix(unit)
    if not isfinite(number):
        return ("not a number" if isnan(number) else "−∞" if number < 0 else "∞"), ""
    if unit == "share":
        return _signed(f"{100 * number:.1f}"), "%"
    if unit == "bytes":
        size, name = next(((s, n) for s, n in SI if abs(number) >= s), (1, "bytes"))
        return _signed(f"{number / size:.{0 if size == 1 else 1}f}"), name
    if abs(number) >= 1000 or number == int(number):
        return _signed(f"{number:,.0f}"), name
    if abs(number) < 0.01:  # small divergences are told apart
        return _signed(f"{number:.3g}"), name
    return _signed(f"{number:.{3 if abs(number) < 10 else 1}f}"), name


def _signed(digits: str) -> str:
    return digits.replace("-", "−")
