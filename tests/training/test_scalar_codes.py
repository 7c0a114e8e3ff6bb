"""The byte of a projected gradient: its table is what the formula says, and a value becomes the nearest number."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.scalar_codes import MAGNITUDES, decoded, encode, is_code, magnitude, signed

CODES = [code for code in range(256) if code != 128]
ORIGINS = st.integers(-60, 60)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_magnitudes_are_powers_of_the_ninth_root_of_two_rounded_to_integers() -> None:
    assert len(MAGNITUDES) == 128
    assert MAGNITUDES[0] == 0
    for m in range(1, 128):
        # n = round(2^16 2^((m - 1) / 9)) if n - 1/2 <= that < n + 1/2: all of it doubled and to the ninth power.
        doubled = 2 * MAGNITUDES[m]
        assert (doubled - 1) ** 9 <= 2**9 * 2 ** (16 * 9 + m - 1) < (doubled + 1) ** 9
        with localcontext(prec=50):
            assert MAGNITUDES[m] == round(Decimal(2) ** (16 + Decimal(m - 1) / 9))


def test_codes_are_in_the_order_of_their_numbers() -> None:
    assert all(low < high for low, high in pairwise(MAGNITUDES))
    numbers = [decoded(code, 0) for code in [*range(255, 128, -1), *range(128)]]
    assert all(low < high for low, high in pairwise(numbers))
    assert (numbers[0], numbers[127], numbers[-1]) == (-(2.0**14), 0, 2.0**14)


def test_one_byte_is_no_code() -> None:
    assert [code for code in range(-2, 300) if is_code(code)] == CODES
    for wrong in (-1, 128, 256):
        for read in (magnitude, signed, partial(decoded, origin=0)):
            with pytest.raises(ValueError, match=f"a byte other than 128, this is {wrong}"):
                read(wrong)


@given(origin=ORIGINS)
def test_every_number_of_the_table_has_its_own_code(origin: int) -> None:
    assert [encode(decoded(code, origin), origin) for code in CODES] == CODES


@given(value=FINITE, origin=ORIGINS)
def test_a_value_becomes_the_nearest_number(value: float, origin: int) -> None:
    unit = Fraction(2) ** (origin - 16)
    numbers = {code: Fraction(signed(code)) * unit for code in CODES}
    errors = {code: abs(Fraction(value) - number) for code, number in numbers.items()}
    assert errors[encode(value, origin)] == min(errors.values())


@given(code=st.sampled_from([code for code in CODES if code % 128 < 127]), origin=ORIGINS)
def test_midway_between_two_numbers_the_last_bit_decides(code: int, origin: int) -> None:
    midway = math.ldexp(MAGNITUDES[code % 128] + MAGNITUDES[code % 128 + 1], origin - 17)
    sign = -1 if code > 128 else 1
    assert encode(sign * midway, origin) == code
    assert encode(sign * math.nextafter(midway, math.inf), origin) == code + 1


@given(value=FINITE, origin=ORIGINS)
def test_the_opposite_value_has_the_opposite_number(value: float, origin: int) -> None:
    assert decoded(encode(-value, origin), origin) == -decoded(encode(value, origin), origin)


def test_zero_has_a_code_and_so_has_what_is_nearer_to_it_than_to_the_smallest() -> None:
    for value in (0.0, -0.0, 5e-324, -5e-324, 2.0**-1, -(2.0**-1)):
        assert encode(value, 0) == 0
    assert encode(math.nextafter(0.5, 1), 0) == 1
    assert encode(-math.nextafter(0.5, 1), 0) == 129


def test_beyond_the_largest_number_there_is_the_largest() -> None:
    assert encode(2.0**15, 0) == 127
    assert encode(-1.7e308, -60) == 255
    assert decoded(127, 3) == 2.0**17


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_code(value: float) -> None:
    with pytest.raises(ValueError, match="is finite, this one"):
        encode(value, 0)


def test_the_error_of_values_in_range_is_2_2_percent() -> None:
    values = np.exp2(np.random.default_rng(1).uniform(-3, 11, 50_000))
    errors = np.array([decoded(encode(value, -3), -3) / value - 1 for value in values.tolist()])
    assert np.sqrt(np.mean(errors**2)) <= 0.0225
    assert np.abs(errors).max() <= 0.0401
