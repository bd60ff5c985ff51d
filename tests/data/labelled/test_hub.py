"""Data sets of the hub: with a stand-in for the `datasets` package, and with the package itself where it is there."""

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil_image

from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError


class Image:
    """Stand-in for the feature of images; the names of these classes are what is looked at."""


class Value:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class ClassLabel:
    def __init__(self, *names: str) -> None:
        self.names = list(names)


class Rows:
    """Stand-in for a `datasets.Dataset`."""

    def __init__(self, features: dict[str, Any], **columns: list[Any]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        row = {name: values[key] for name, values in self.columns.items()}
        if any(value == "damaged" for value in row.values()):
            raise OSError("truncated")
        return row

    def select_columns(self, names: list[str]) -> "Rows":
        return Rows({name: self.features[name] for name in names}, **{name: self.columns[name] for name in names})


def images(count: int = 4) -> list[Any]:
    return [pil_image.new("RGB", (20, 18), (9 * n, 0, 0)) for n in range(count)]


def pets(count: int = 4, **more: Any) -> Rows:
    features = {"img": Image(), "animal": ClassLabel("cat", "dog"), "id": Value("int64")}
    columns = {"img": images(count), "animal": [n % 2 for n in range(count)], "id": list(range(count))}
    return Rows(features, **(columns | more))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The stand-in: `hub.data` is what it loads, `hub.calls` how it was asked."""
    fake: Any = types.ModuleType("datasets")
    state = types.SimpleNamespace(data={"train": pets()}, calls=[], module=fake)

    def load_dataset(*arguments: Any, **more: Any) -> Any:
        state.calls.append((arguments, more))
        if isinstance(state.data, Exception):
            raise state.data
        return state.data

    fake.load_dataset, fake.__version__ = load_dataset, "4.1.0"
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return state


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnsupportedError, match=r'pip install "visprompt-toolkit\[hf\]"'):
        load_splits("hf:owner/pets")


def test_columns_by_what_they_are_declared_as(hub: Any) -> None:
    hub.data = {"train": pets(8), "test": pets(2)}
    splits = load_splits("hf:owner/pets", validation=0.25, config="small", revision="abc")
    assert hub.calls == [(("owner/pets", "small"), {"revision": "abc"})]
    assert splits.train.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (6, 2, 2)
    assert splits.train.image(1).size == (20, 18)
    assert splits.protocol == (
        "Train is that of owner/pets at revision abc; validation is 0.25 of it, drawn with seed 0, in the proportions "
        "of the classes; test is its own."
    )
    assert splits.train.check() is splits.train


def test_code_of_data_sets_runs_only_if_asked(hub: Any) -> None:
    hub.module.__version__ = "3.6.0"
    load_splits("hf:owner/pets", validation=0)
    load_splits("hf:owner/pets", validation=0, trust_remote_code=True)
    assert [more["trust_remote_code"] for _, more in hub.calls] == [False, True]


def test_parts_by_name(hub: Any) -> None:
    hub.data = {"train": pets(4), "validation": pets(2)}
    assert load_splits("hf:p").test is None
    splits = load_splits("hf:p", parts={"train": "train", "test": "validation"}, validation=0.5)
    assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (2, 2, 2)
    hub.data = {"all": pets(4)}
    assert len(load_splits("hf:p", validation=0).train) == 4
    hub.data = {"a": pets(4), "b": pets(4)}
    with pytest.raises(
        InvalidInputError, match=r'no split train; it has a, b\. Say which is which: parts={"train": "a"}'
    ):
        load_splits("hf:p")
    with pytest.raises(InvalidInputError, match="parts says which split is which"):
        load_splits("hf:p", parts="train")
    with pytest.raises(InvalidInputError, match="no split 'c'; it has a, b"):
        load_splits("hf:p", parts={"train": "c"})


def test_secret_labels(hub: Any) -> None:
    hub.data = {"train": pets(4), "test": pets(2, animal=[-1, -1])}
    splits = load_splits("hf:p", validation=0)
    assert splits.test is None
    assert "its labels are secret" in splits.protocol
    hub.data = {"train": pets(4, animal=[0, 1, -1, 0])}
    with pytest.raises(InvalidInputError, match=r"image 2: label -1 is none"):
        load_splits("hf:p")


def test_labels_that_are_not_declared(hub: Any) -> None:
    features = {"image": Image(), "label": Value("string")}
    hub.data = {"train": Rows(features, image=images(), label=["b", "a", "b", "a"])}
    splits = load_splits("hf:p", validation=0)
    assert (splits.train.classes, splits.train.labels) == (("a", "b"), [1, 0, 1, 0])


def test_other_names_for_classes(hub: Any) -> None:
    assert load_splits("hf:p", validation=0, classes=["Katze", "Hund"]).train.classes == ("Katze", "Hund")
    with pytest.raises(InvalidInputError, match="declares 2 classes; 3 names"):
        load_splits("hf:p", classes=3)


@pytest.mark.parametrize(
    ("features", "options", "said"),
    [
        ({"img": Image(), "id": Value("int64")}, {}, r"no column declared as class labels.*label=.*id \(int64\)"),
        ({"img": Image(), "a": ClassLabel("x"), "b": ClassLabel("x")}, {}, "2 columns declared as class labels"),
        (
            {"img": Image(), "b": Image(), "a": ClassLabel("x")},
            {},
            "2 columns declared as images; name one with image=",
        ),
        ({"id": Value("int64"), "a": ClassLabel("x")}, {}, "no column declared as images"),
        ({"img": Image(), "a": ClassLabel("x")}, {"label": "y"}, r"no column 'y' \(label\)"),
        ({"img": Image(), "a": ClassLabel("x")}, {"image": "a"}, "'a' is no column of images"),
        ({"img": Image(), "tags": [ClassLabel("x")]}, {"label": "tags"}, "a label is one class per image"),
        ({"img": Image(), "q": Value("string")}, {"question": "q"}, "questions without a column of answers"),
        ({"img": Image(), "mask": Image()}, {}, "masks hold numbers; give classes="),
    ],
)
def test_columns_that_cannot_be_told(hub: Any, features: dict[str, Any], options: dict[str, Any], said: str) -> None:
    hub.data = {"train": Rows(features, **{name: images() for name in features})}
    with pytest.raises(InvalidInputError, match=said):
        load_splits("hf:p", **options)


def test_masks_and_answers(hub: Any) -> None:
    masks = [pil_image.fromarray(np.full((18, 20), n, np.uint8)) for n in range(4)]
    features = {"image": Image(), "annotation": Image(), "scene": ClassLabel("x", "y")}
    hub.data = {"train": Rows(features, image=images(), annotation=masks, scene=[0, 1, 0, 1])}
    splits = load_splits("hf:p", validation=0, classes=3, zero_is_none=True)
    assert splits.train.kind == "segmentation"
    assert [int(np.unique(splits.train.label(n))[0]) for n in range(4)] == [255, 0, 1, 2]
    assert splits.train.check()
    assert load_splits("hf:p", validation=0, label="scene").train.kind == "classification"

    features = {"image": Image(), "question": Value("string"), "answer": Value("string")}
    hub.data = {"train": Rows(features, image=images(), question=["q"] * 4, answer=["a", "b", "c", "d"])}
    assert load_splits("hf:p", validation=0).train.label(2) == ("q", "c")
    hub.data = {"train": Rows(features, image=images(), question=["q"] * 4, answer=["a", ["b"], "c", "d"])}
    with pytest.raises(InvalidInputError, match=r"row 1 of train: answer is \['b'\]"):
        load_splits("hf:p")


def test_damaged_images_name_their_row(hub: Any) -> None:
    hub.data = {"train": pets(4, img=[*images(2), "damaged", None])}
    with pytest.raises(InvalidInputError) as caught:
        load_splits("hf:p", validation=0).train.check()
    assert "row 2 of p train: img cannot be read (truncated)" in str(caught.value)
    assert "row 3 of p train: img is empty" in str(caught.value)


def test_failures_are_one_sentence(hub: Any, tmp_path: Path) -> None:
    hub.data = ConnectionError("no route to hub\n" + "trace\n" * 9)
    with pytest.raises(InvalidInputError, match=r"cannot load 'owner/p': no route to hub Check") as caught:
        load_splits("hf:owner/p")
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="there is no folder '/no/such/folder'"):
        load_splits("hf:/no/such/folder")
    with pytest.raises(InvalidInputError, match=r"neither dataset_dict\.json nor state\.json"):
        load_splits(tmp_path, "hf")
    with pytest.raises(UnknownNameError, match="did you mean 'revision'"):
        load_splits("hf:p", revison="x")


def test_parquet_files_by_part(hub: Any, tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "test/0000"):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    load_splits(tmp_path, "hf", validation=0)
    ((builder,), more) = hub.calls[0]
    assert builder == "parquet"
    assert {part: len(files) for part, files in more["data_files"].items()} == {"train": 2, "test": 1}


class TestThePackage:
    """With the real package; left out where it is not installed."""

    def test_saved_to_disk_and_parquet(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"img": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])})
        rows = datasets.Dataset.from_dict({"img": images(6), "animal": [0, 1] * 3}, features=features)
        datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "saved"))
        splits = load_splits(tmp_path / "saved", "hf", validation=0.34)
        assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (4, 2, 6)
        again = pickle.loads(pickle.dumps(splits.train))
        assert again.image(0).tobytes() == splits.train.image(0).tobytes()
        assert again.describe() == splits.train.describe()
        assert splits.train.check() is splits.train

        (tmp_path / "files").mkdir()
        rows.to_parquet(str(tmp_path / "files" / "train-00000-of-00001.parquet"))
        assert load_splits(f"hf:{tmp_path / 'files'}", validation=0).train.labels == [0, 1] * 3


def test_parts_that_number_their_classes_otherwise_are_refused(hub: types.SimpleNamespace) -> None:
    other = pets()
    other.features["animal"] = ClassLabel("dog", "cat")
    hub.data = {"train": pets(), "test": other}
    with pytest.raises(InvalidInputError, match=r"test declares its classes otherwise than train, 'dog', 'cat'"):
        load_splits("owner/pets", "hf", validation=0)


def test_a_test_part_without_labels_is_left_out(hub: types.SimpleNamespace) -> None:
    blank = pets().select_columns(["img", "id"])
    hub.data = {"train": pets(), "test": blank}
    splits = load_splits("owner/pets", "hf", validation=0)
    assert splits.test is None
    assert "secret" in splits.protocol
    hub.data = {"train": pets(), "validation": blank}
    with pytest.raises(InvalidInputError, match="validation has no column 'animal'"):
        load_splits("owner/pets", "hf")
