"""Ids, slots, owners and addresses: the arithmetic that Redis must agree with."""

from __future__ import annotations

import enum
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from rq.job import Job

from rqproc.errors import ConfigError, InvalidId, RqprocError
from rqproc.ids import (
    MAX_ID_CHARS,
    SLOT_BITS,
    Id,
    address,
    canonical,
    check_resource,
    is_address,
    owner,
    parse_address,
    quote,
    resource_of,
    slot,
    unquote,
)

TOP = 2**SLOT_BITS - 1

plain_text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
valid_ids = (st.integers(-(10**180), 10**180) | plain_text).map(canonical)


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [
        ("7", 7),
        (7, 7),
        ("0", 0),
        ("-5", -5),
        (-5, -5),
        ("9" * MAX_ID_CHARS, int("9" * MAX_ID_CHARS)),
        ("007", "007"),
        ("+7", "+7"),
        ("-0", "-0"),
        ("-", "-"),
        ("7.0", "7.0"),
        (" 7", " 7"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        ("７", "７"),  # noqa: RUF001 - a digit, but no decimal of ours
        ("a:b|c", "a:b|c"),
        ("é", "é"),
        ("x" * MAX_ID_CHARS, "x" * MAX_ID_CHARS),
    ],
)
def test_an_id_has_one_spelling(given_id: object, kept: Id) -> None:
    found = canonical(given_id)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    "refused",
    [
        *(True, False, None, 7.0, b"7", ("7",), ""),
        *("x" * (MAX_ID_CHARS + 1), "9" * (MAX_ID_CHARS + 1)),
        *("a\nb", "\0", "\x1f", "\x7f", "\x80", "\x9f", "7\n", "\ud800", "a\udfffb"),
        *(10**MAX_ID_CHARS, -(10**MAX_ID_CHARS)),
    ],
    ids=ascii,
)
def test_what_cannot_be_an_id_is_refused(refused: object) -> None:
    with pytest.raises(InvalidId) as caught:
        canonical(refused)
    assert isinstance(caught.value, RqprocError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 250, "the message stays readable"


def test_an_integer_that_python_will_not_print_is_refused_too() -> None:
    with pytest.raises(InvalidId, match="digits"):
        canonical(10**5000)


@given(valid_ids)
def test_to_spell_an_id_again_changes_nothing(id: Id) -> None:
    assert canonical(id) == id
    assert canonical(str(id)) == id


@pytest.mark.parametrize("id", [0, 1, 6, 42, TOP - 1, TOP])
def test_an_integer_in_range_is_its_own_slot(id: int) -> None:
    assert slot(id) == id


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("a", 2285969620036808),
        ("é", 7146103782637155),
        (-1, 1102703280132448),
        (TOP + 1, 7836281958389183),
    ],
)
def test_slots_of_digested_ids_never_change(id: Id, expected: int) -> None:
    """Nodes and clients of different versions must agree: the numbers are part of the protocol."""
    assert slot(id) == expected


@given(valid_ids)
def test_a_slot_fits_a_double(id: Id) -> None:
    assert 0 <= slot(id) <= TOP
    assert float(slot(id)) == slot(id)


@pytest.mark.parametrize(
    ("slot", "expected"), [(0, "a"), (1, "b"), (2, "c"), (3, "a"), (TOP, "b"), (TOP - 1, "a")]
)
def test_the_owner_is_the_slot_modulo_the_members(slot: int, expected: str) -> None:
    assert owner(slot, ["a", "b", "c"]) == expected


def test_without_members_there_is_no_owner() -> None:
    assert owner(7, []) is None


@given(st.sampled_from(["r", "price", "a.b-c_d", "x" * 100]), valid_ids)
def test_an_address_reads_back_as_what_it_was_made_of(resource: str, id: Id) -> None:
    assert parse_address(address(resource, id)) == (slot(id), resource, id)


@given(st.sampled_from(["r", "a.b-c_d", "x" * 100]), valid_ids, st.sampled_from("cai"))
def test_the_id_of_a_call_is_one_that_rq_takes_and_so_is_that_of_a_groups(
    resource: str, id: Id, kind: str
) -> None:
    place = address(resource, id)
    for job in (f"rab12-{kind}0-{place}", f"rab12-c0_7-{place}"):
        assert re.fullmatch("[A-Za-z0-9_-]+", job)
        assert Job(id=job, connection=Redis()).id == job
        assert job.split("-", 2)[2] == place


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_quoted_is_made_of_letters_digits_and_underscores_and_reads_back(text: str) -> None:
    assert re.fullmatch("[A-Za-z0-9_]*", quote(text))
    assert unquote(quote(text)) == text


@pytest.mark.parametrize("text", ["", "1", "1-r", "1-r-1-2", "x-r-1", "1-r-_ff", "1-r-_c3"])
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - InvalidId is one, and so is what int() raises
        parse_address(text)


def test_addresses_of_two_ids_are_never_the_same() -> None:
    ids: list[Id] = ["a_b", "a-b", "a b", "a_20b", "a__b", "é", "Ã©", "_", "-", "_5f", 1, -1, "01"]
    assert len({address("r", id) for id in ids}) == len(ids)
    assert address("a_b", 1) != address("a-b", 1)


def test_an_address_leads_with_the_slot() -> None:
    assert address("price", 42) == "42-price-42"


@pytest.mark.parametrize("id", ["a:b", "1|2", "é x", -5, "007", 10**MAX_ID_CHARS - 1])
def test_an_id_with_an_addresss_own_signs_survives_it(id: Id) -> None:
    assert parse_address(address("r", id)) == (slot(id), "r", id)


def test_the_longest_negative_id_survives_its_address() -> None:
    """The sign counts as a character: an id that canonical takes must be readable again."""
    accepted = canonical(-(10 ** (MAX_ID_CHARS - 1)) + 1)
    assert parse_address(address("r", accepted))[2] == accepted
    with pytest.raises(InvalidId):
        canonical(-(10 ** (MAX_ID_CHARS - 1)))


# --- names of resources ---


@pytest.mark.parametrize("name", ["demo", "a.b-c_d", "x9", "_x", "x" * 100, "class"])
def test_a_resources_name_is_like_an_identifier(name: str) -> None:
    assert check_resource(name) == name


@pytest.mark.parametrize("name", ["", "9x", "a b", "a:b", "a|b", "é", "x" * 101, "a\n", "a/b"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="invalid resource name"):
        check_resource(name)


@pytest.mark.parametrize("name", [None, 5, b"demo", "\ud800", "x" * 10_000])
def test_a_name_that_no_address_can_carry_is_refused_shortly(name: object) -> None:
    with pytest.raises(ConfigError, match="invalid resource name") as caught:
        check_resource(name)
    assert len(str(caught.value)) < 200


def test_a_value_of_a_subclass_is_the_plain_one_that_it_equals() -> None:
    class Size(enum.IntEnum):
        LARGE = 3

    class Tenant(str, enum.Enum):  # noqa: UP042 - what applications have
        ACME = "acme"
        SEVEN = "7"

    found = [canonical(Size.LARGE), canonical(Tenant.ACME), canonical(Tenant.SEVEN)]
    assert found == [3, "acme", 7]
    assert [type(id) for id in found] == [int, str, int]
    assert type(check_resource(Tenant.ACME)) is str


def test_an_address_that_anyone_has_made_up_is_told_apart() -> None:
    assert (resource_of(b"1-price-1"), is_address(b"1-price-1")) == ("price", True)
    assert (resource_of(b"1-my_20price-1"), is_address(b"1-my_20price-1")) == ("my price", True)
    for bad in (b"1-_ff-1", b"\xff-\xff-\xff", b"", b"9" * 5000 + b"-price-1", b"1-price-_ff"):
        assert not is_address(bad)
    assert [resource_of(bad) for bad in (b"1-_ff-1", b"1-\xff-1", b"", b"1")] == [""] * 4
