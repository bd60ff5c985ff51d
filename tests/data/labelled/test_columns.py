"""Names of columns and versions of the hub travel as one value; 0.4.0's keyword arguments still work."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visprompt.data.labelled import ColumnSpec, load_splits
from visprompt.data.labelled.columns import HubVersion, folded, groups_of, option_names, takes_groups
from visprompt.data.labelled.hub import read_hub
from visprompt.data.labelled.tables import read_csv, read_jsonl
from visprompt.errors import InvalidInputError, UnknownNameError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (20, 18)).save(tmp_path / name)
    rows = ["image,species,part", "a.png,cat,train", "b.png,dog,train", "c.png,dog,test"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "t.csv"


SPEC = ColumnSpec(image="image", label="species", split="part")
OLD: dict[str, Any] = {"image": "image", "label": "species", "split": "part"}


def test_a_spec_and_the_old_keywords_read_the_same(table: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = read_csv(table, columns=SPEC, validation=0)
    with pytest.warns(DeprecationWarning, match=r"read_csv\(image=…\).*columns=ColumnSpec\(image=…\)"):
        old = read_csv(table, **OLD, validation=0)
    assert new.describe() == old.describe()
    assert [new.train.labels, new.test.labels if new.test else None] == [[0, 1], [1]]


def test_load_splits_takes_every_column_by_name(table: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = load_splits(table, validation=0, **OLD)
    assert splits.describe() == read_csv(table, columns=SPEC, validation=0).describe()
    with pytest.raises(UnknownNameError, match=r"option of the format csv.*lable"):
        load_splits(table, lable="species")
    with pytest.raises(UnknownNameError, match=r"option of the format csv.*columns"):
        load_splits(table, columns="species")


def test_an_option_is_given_once(table: Path) -> None:
    with (
        pytest.warns(DeprecationWarning, match="read_csv"),
        pytest.raises(InvalidInputError, match="label is given by itself and with columns="),
    ):
        read_csv(table, columns=SPEC, label="species")


def test_the_hub_has_no_column_of_parts(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="splits of its own; say which is which with parts="):
        read_hub(tmp_path, columns=ColumnSpec(split="part"))


@pytest.mark.parametrize(
    ("reader", "groups"),
    [
        (read_csv, {"columns": ColumnSpec}),
        (read_jsonl, {"columns": ColumnSpec}),
        (read_hub, {"columns": ColumnSpec, "version": HubVersion}),
    ],
)
def test_readers_say_what_they_take_together(reader: Any, groups: dict[str, type]) -> None:
    assert groups_of(reader) == groups
    assert {"image", "label", "mask", "question", "answer", "split"} <= set(option_names(reader))


def test_groups_are_made_of_what_is_given() -> None:
    @takes_groups(version=HubVersion)
    def reader(where: str, *, version: HubVersion | None = None, other: int = 0) -> Any:
        return where, version, other

    assert folded(reader, {"other": 2}) == {"other": 2}
    assert folded(reader, {"revision": "main"}) == {"version": HubVersion(revision="main")}
    assert reader("x", version=HubVersion("en"), other=1) == ("x", HubVersion("en"), 1)
    assert groups_of(lambda: None) == {}  # type: ignore[arg-type, return-value]
