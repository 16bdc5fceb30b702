"""Quantities are compared by value, the way the API server reads them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from checkers import quantity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", "500m"),
        ("1", "1000m"),
        (1, "1"),
        (0.5, "500m"),
        (Decimal("0.25"), "250m"),
        ("1Gi", "1024Mi"),
        ("1.5Gi", "1536Mi"),
        ("1G", "1000M"),
        ("1k", "1e3"),
        ("1E", "1000P"),
        ("1E3", "1000"),
        ("1e-3", "1m"),
        ("100u", "0.1m"),
        ("5n", "0.000000005"),
        ("+2", "2"),
        ("2.", "2"),
        (".5", "0.5"),
        ("00.10", "100m"),
        ("-1", "-1000m"),
        ("0", "0Gi"),
        ("-0", "0"),
        ("1234567890123456789", "1234567890123456789000m"),
        ("9.999999Ei", "10239.998976Pi"),
    ],
)
def test_the_same_amount_written_differently_is_equal(one: str, other: str) -> None:
    assert quantity.equal(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1Gi", "1G"),
        ("1m", "1M"),
        ("1k", "1Ki"),
        ("1e3", "1E"),
        ("1", "-1"),
        ("100m", "101m"),
        ("1234567890123456789", "1234567890123456790"),
    ],
)
def test_different_amounts_are_not_equal(one: str, other: str) -> None:
    assert not quantity.equal(one, other)


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "Gi", ".", "1 Gi", " 1", "1\n", "1K", "1ki", "1mi", "1GB", "1gi", "1e", "1e1.5", "1ee3", "--1",
     "0x10",
     "1_000", "nan", "inf", "Infinity", "٣", "1Gi1", "1e3Ki", "1e1234567", "9" * 65, True, None, [], {}],
)  # fmt: skip
def test_what_the_api_server_refuses_is_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


def test_less_than_a_nano_is_rounded_up_never_away() -> None:
    assert quantity.parse("0.1n") == Decimal("1e-9")
    assert quantity.parse("1.1n") == Decimal("2e-9")
    assert quantity.parse("-0.1n") == Decimal("-1e-9")
    assert quantity.parse("1e-99999") == Decimal("1e-9")


def test_an_absurd_exponent_costs_no_time_and_no_memory() -> None:
    absurd = quantity.parse("1e99999")
    assert absurd > quantity.parse("1E")
    assert quantity.shown("memory", absurd) == "1.0e+99999"


def test_sums_are_exact() -> None:
    assert quantity.total(["100m", "0.2", 1, "1n"]) == Decimal("1.300000001")
    assert quantity.total([]) == 0


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        ("cpu", "250m", "250m"),
        ("cpu", "2", "2"),
        ("cpu", "2500m", "2500m"),
        ("cpu", "0", "0"),
        ("limits.cpu", "1e1", "10"),
        ("memory", "1536Mi", "1.5Gi"),
        ("requests.memory", "64Mi", "64Mi"),
        ("memory", "100", "100 bytes"),
        ("memory", "0", "0 bytes"),
        ("ephemeral-storage", "20480Mi", "20Gi"),
        ("requests.storage", "1G", "953.7Mi"),
        ("hugepages-2Mi", "4Mi", "4Mi"),
        ("nvidia.com/gpu", "4", "4"),
        ("requests.nvidia.com/gpu", "10", "10"),
        ("pods", "110", "110"),
        ("memory", "-1Gi", "-1Gi"),
        ("cpu", "-500m", "-500m"),
    ],
)
def test_amounts_are_shown_as_people_write_them(resource: str, amount: str, text: str) -> None:
    assert quantity.shown(resource, quantity.parse(amount)) == text


def test_more_decimals_tell_close_amounts_apart() -> None:
    assert quantity.shown("memory", quantity.parse("4095Mi")) == "4Gi"
    assert quantity.shown("memory", quantity.parse("4095Mi"), places=3) == "3.999Gi"
