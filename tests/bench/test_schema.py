"""The checks of suite files: what is said about a wrong value, and which old names are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from visprompt.bench import schema
from visprompt.bench.schema import RENAMED, checked, types_of, valid, within
from visprompt.errors import InvalidInputError, UnknownNameError, VispromptError
from visprompt.utils.hashing import digest


@dataclass(frozen=True)
class Section:
    """A section of a file, with a field of every type."""

    name: str
    text: str | None = None
    number: float = 1.0
    flag: bool = False
    integer: int = 0
    whole: schema.Whole = 0
    count: schema.Count = 1
    listed: schema.Listed = field(default_factory=list)
    texts: tuple[str, ...] = ()
    keys: dict[str, Any] = field(default_factory=dict)
    grid: schema.Grid = field(default_factory=dict)
    seeds: schema.Seeds = (0,)
    choice: Literal["one", "two"] = "one"


FIELDS = types_of(Section, "name")


class TestValues:
    def test_a_section_becomes_the_fields_of_its_dataclass(self) -> None:
        values = {
            "text": "a",
            "number": 2.5,
            "flag": True,
            "integer": -3,
            "whole": 0,
            "count": 7,
            "listed": [None, "x"],
        }
        values |= {"texts": ["a", "b"], "keys": {2024: [1]}, "grid": {"lr": [0.1, None]}, "seeds": [3, 1]}
        made = Section("n", **checked({**values, "choice": "two"}, FIELDS, "part p"))
        assert (made.texts, made.seeds, made.choice) == (("a", "b"), (3, 1), "two")
        assert (made.keys, made.grid) == ({"2024": [1]}, {"lr": [0.1, None]})

    def test_what_is_left_out_or_has_no_value_keeps_its_default(self) -> None:
        assert Section("n", **checked({"text": None, "count": None, "seeds": None}, FIELDS)) == Section("n")
        assert checked(None, FIELDS) == {}

    def test_a_whole_number_for_a_real_one_is_kept_as_it_is(self) -> None:
        # it is hashed and written to result rows, where 2 and 2.0 differ
        assert isinstance(valid(2, schema.Number, "weight", ""), int)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"text": 3}, "part p: text is a text; got 3."),
            ({"number": "1"}, "part p: number is a number; got '1'."),
            ({"number": True}, "part p: number is a number; got True."),
            ({"flag": "yes"}, "part p: flag is true or false; got 'yes'."),
            ({"flag": 1}, "part p: flag is true or false; got 1."),
            ({"integer": 1.0}, "integer in part p is a whole number; got 1.0."),
            ({"integer": "1"}, "integer in part p is a whole number; got '1'."),
            ({"whole": -1}, "whole in part p is a whole number, at least 0; got -1."),
            ({"whole": True}, "whole in part p is a whole number, at least 0; got True."),
            ({"count": 0}, "count in part p is a whole number, at least 1; got 0."),
            ({"listed": "ab"}, "listed of part p: expected a list; got 'ab'."),
            ({"texts": "ab"}, "texts of part p: expected a list of texts; got 'ab'."),
            ({"texts": ["a", 1]}, "texts of part p: expected a list of texts; got 1 in it."),
            ({"keys": ["a"]}, "keys of part p: expected keys with values; got ['a']."),
            ({"grid": {"lr": []}}, "grid of part p: every name needs a list of values; got [] in it."),
            ({"grid": {"lr": 0.1}}, "grid of part p: every name needs a list of values; got 0.1 in it."),
            ({"seeds": [1, 1]}, "seeds of part p: expected a list of different whole numbers, at least 0; got [1, 1]."),
            ({"seeds": []}, "seeds of part p: expected a list of different whole numbers, at least 0; got []."),
            ("text", "part p: expected keys with values; got 'text'."),
        ],
    )
    def test_a_wrong_value_is_said_with_what_was_expected_and_what_came(self, value: Any, message: str) -> None:
        with pytest.raises(InvalidInputError) as caught:
            checked(value, FIELDS, "part p")
        assert str(caught.value) == message

    def test_unknown_keys_and_choices_come_with_a_suggestion(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown key in part p 'cuont': did you mean 'count'"):
            checked({"cuont": 1}, FIELDS, "part p")
        with pytest.raises(
            UnknownNameError, match=r"unknown choice of part p 'tow': did you mean 'two'.*Known: one, two"
        ):
            checked({"choice": "tow"}, FIELDS, "part p")
        with pytest.raises(UnknownNameError, match="unknown key 'name'"):
            checked({"name": "x"}, FIELDS)  # left out: the file does not give it

    def test_at_the_top_of_a_file_no_section_is_named(self) -> None:
        with pytest.raises(InvalidInputError, match=r"^count is a whole number, at least 1; got 'x'.$"):
            checked({"count": "x"}, FIELDS)

    def test_a_required_value_says_what_it_is(self) -> None:
        needed = schema.Annotated[schema.Text, schema.Says("{at}{key} is a text", "the name of one")]
        for content in ({}, {"model": None}, {"model": ""}):
            with pytest.raises(InvalidInputError, match=r"^part p needs model: the name of one.$"):
                checked(content, {"model": needed}, "part p")

    def test_where_an_error_happened_stands_in_front_of_it(self) -> None:
        with pytest.raises(UnknownNameError, match=r"^row 'a': unknown x$"), within("row 'a'"):
            raise UnknownNameError("unknown x")
        with pytest.raises(InvalidInputError, match=r"^row 'a': no such thing.$"), within("row 'a'", TypeError):
            raise TypeError("no such thing")
        with pytest.raises(TypeError), within("row 'a'"):
            raise TypeError("a mistake of the program, not of the file")


class TestRows:
    def test_controls_come_after_the_rows_and_labels_are_different(self) -> None:
        @dataclass(frozen=True)
        class Row:
            label: str
            control: bool

        top = {"rows": ["a"], "controls": ["b"], "title": "x"}
        assert schema.rows_of(top, "rows", Row) == (Row("a", False), Row("b", True))
        assert top == {"title": "x"}
        with pytest.raises(InvalidInputError, match="two rows called a"):
            schema.rows_of({"rows": ["a"], "controls": ["a"]}, "rows", Row)
        with pytest.raises(InvalidInputError, match="there are no rows"):
            schema.rows_of({}, "rows", Row)


class TestRenamedKeys:
    @pytest.fixture(autouse=True)
    def renamed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table = {"some": (((), "old", "new"), (("parts", "*", "how"), "before", "now"))}
        monkeypatch.setattr(schema, "RENAMED", table)

    def read(self, **content: Any) -> dict[str, Any]:
        return schema.opened({"kind": "some", **content}, "some", "s", {"new": schema.Text, "parts": schema.Keys})

    def test_an_old_key_and_an_old_value_are_read_with_a_warning_that_names_the_new_one(self) -> None:
        with pytest.warns(DeprecationWarning, match="suite s: 'old' is called 'new' now"):
            assert self.read(old="x")["new"] == "x"
        with pytest.warns(DeprecationWarning, match=r"suite s: 'before' in parts.\*.how is called 'now' now"):
            found = self.read(parts={"a": {"how": "before", "why": "before"}, "b": 3})
        assert found["parts"] == {"a": {"how": "now", "why": "before"}, "b": 3}

    @pytest.mark.filterwarnings("error")
    def test_new_names_warn_of_nothing(self) -> None:
        assert self.read(new="x", parts={"a": {"how": "now"}})["parts"] == {"a": {"how": "now"}}

    def test_both_names_at_once_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="new and old are two names of one key"):
            self.read(old="x", new="y")

    def test_the_hash_is_that_of_the_new_names_with_either(self) -> None:
        new = {"kind": "some", "new": "x", "parts": {"a": {"how": "now"}}}
        assert self.read(**new)["hash"] == digest(new)
        with pytest.warns(DeprecationWarning, match="now"):
            assert self.read(old="x", parts={"a": {"how": "before"}})["hash"] == digest(new)

    def test_another_kind_of_suite_may_use_an_old_name(self) -> None:
        found = schema.opened({"old": "x"}, "another", "s", {"old": schema.Text})
        assert (found["old"], found["name"], found["title"], found["description"]) == ("x", "s", "s", "")


def test_errors_of_the_checks_are_ours() -> None:
    assert issubclass(InvalidInputError, VispromptError)
    assert set(RENAMED) <= {"accuracy", "tuning", "gain"}
