"""JSON as files of a run have it: numbers are finite and of 64 bits, whatever Python would take."""

import json
from typing import Any, NoReturn

MOST = 2**63
LARGEST_NUMBER = 1e300
"""From here on, products of numbers are infinite."""
DIGITS = 20


def parsed(text: str | bytes) -> Any:
    """Return what a text says.

    Raises:
        ValueError: It is no JSON, or has a number that no file of a run has; in one line.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("cut off, or no JSON") from error


def is_count(value: object) -> bool:
    """Return True for a whole number that fits 64 bits; truth is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST


def is_number(value: object) -> bool:
    """Return True for a finite number that can still be multiplied; truth is none."""
    return is_count(value) or (isinstance(value, float) and abs(value) < LARGEST_NUMBER)


def _integer(digits: str) -> int:
    if len(digits) > DIGITS or not is_count(value := int(digits)):
        raise ValueError(f"the number {digits[:DIGITS]}... is too large")
    return value


def _number(digits: str) -> float:
    if not abs(value := float(digits)) < LARGEST_NUMBER:
        raise ValueError(f"the number {digits[:DIGITS]} is too large")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON; leave out what is unknown")
