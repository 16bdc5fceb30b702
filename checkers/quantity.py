"""Kubernetes quantities compared and shown by value: 0.5 is 500m, 1Gi is 1024Mi.

The kubernetes package has a parser of its own, but importing it takes longer than a whole check may.
Grammar and rounding follow apimachinery's pkg/api/resource/quantity.go and suffix.go (v0.37).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_UP, Context, Decimal
from functools import lru_cache

_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_GRAMMAR = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,5}))?"
)
_LONGEST = 64  # characters; nothing sensible is longer, and a student's text must not cost us time
_EXACT = Context(prec=200)
_NANO = Decimal("1e-9")

Quantity = str | float | Decimal  # as YAML and JSON give them, or already parsed


def parse(quantity: Quantity) -> Decimal:
    """The exact value of a quantity as the API server would read it, in its own unit (cores, bytes, things).

    Numbers are taken as YAML gives them. Raises ValueError for anything that the API server would refuse.
    """
    return _parse_text(str(quantity))


@lru_cache(maxsize=4096)
def _parse_text(text: str) -> Decimal:
    found = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"not a quantity: {text[:_LONGEST]!r}")
    number, suffix = Decimal(found["number"]), found["suffix"] or ""
    if suffix in _BINARY:
        value = _EXACT.multiply(number, Decimal(2 ** _BINARY[suffix]))
    else:
        value = number.scaleb(int(found["exponent"] or _DECIMAL[suffix]), _EXACT)
    return _rounded_up_to_nano(value)


def _rounded_up_to_nano(value: Decimal) -> Decimal:
    """Whoever asks for a little gets a little: the API server never rounds a request down to nothing."""
    if not value:
        return Decimal(0)
    if value.adjusted() < -9:
        return _NANO.copy_sign(value)
    exponent = value.as_tuple().exponent
    fits = not isinstance(exponent, int) or exponent >= -9
    return value if fits else value.quantize(_NANO, rounding=ROUND_UP, context=_EXACT)


def equal(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities are the same amount. Raises ValueError when either is not a quantity."""
    return parse(one) == parse(other)


def total(quantities: Iterable[Quantity]) -> Decimal:
    """The exact sum. Raises ValueError when one of them is not a quantity."""
    amount = Decimal(0)
    for quantity in quantities:
        amount = _EXACT.add(amount, parse(quantity))
    return amount


def shown(resource: str, amount: Decimal, places: int = 1) -> str:
    """An amount as people write it: bytes as 1.5Gi, cores as 250m or 2, anything countable as a number.

    `resource` is the resource's name (cpu, memory, requests.nvidia.com/gpu ...); it decides the unit. The
    text is for reading, rounded to `places` decimals, and is not meant to be parsed again.
    """
    if amount.adjusted() > 30:
        return f"{amount:.{places}e}"
    if is_bytes(resource):
        return _bytes_shown(amount, places)
    if 0 < abs(amount) < 1 or (amount % 1 and amount * 1000 % 1 == 0):
        return f"{_trimmed(amount * 1000, places)}m"
    return _trimmed(amount, places)


def is_bytes(resource: str) -> bool:
    """Whether a resource is counted in bytes, whatever prefix a quota or a metric puts before its name."""
    last = resource.rsplit(".", 1)[-1]
    return last in {"memory", "ephemeral-storage", "storage"} or last.startswith("hugepages-")


def _bytes_shown(amount: Decimal, places: int) -> str:
    for suffix, bits in reversed(_BINARY.items()):
        unit = Decimal(2**bits)
        if abs(amount) >= unit:
            return f"{_trimmed(amount / unit, places)}{suffix}"
    return f"{_trimmed(amount, places)} bytes"


def _trimmed(amount: Decimal, places: int) -> str:
    text = f"{amount:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
