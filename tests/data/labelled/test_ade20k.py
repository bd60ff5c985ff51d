"""ADE20K as it is published."""

from pathlib import Path

import numpy as np
import pytest
from helpers import quietly, saved_image
from PIL import Image

from visprompt.data.labelled.ade20k import names_of
from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError


class TestAde20k:
    def made(self, root: Path, count: int = 4) -> Path:
        for part in ("training", "validation"):
            for n in range(count):
                saved_image(root / "images" / part / f"{part}_{n}.jpg")
                mask = np.full((18, 20), n, np.uint8)
                mask[0, 0] = 150
                folder = root / "annotations" / part
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"{part}_{n}.png")
        return root

    def test_published(self, tmp_path: Path) -> None:
        splits = quietly(self.made(tmp_path / "ADEChallengeData2016"), "ade20k", validation=0.25)
        assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (3, 1, 4)
        assert len(splits.train.classes) == 150
        assert splits.train.classes[:2] == ("class 1", "class 2")
        assert splits.test is not None
        assert [np.unique(splits.test.label(n)).tolist() for n in (0, 1)] == [[149, 255], [0, 149]]  # type: ignore[arg-type]
        assert splits.test.check()
        assert splits.protocol == (
            "Train is the folder training; validation is 0.25 of it, drawn with seed 0; "
            "test is the folder validation, as everywhere for ADE20K."
        )

    @pytest.mark.parametrize(
        "text",
        [
            "Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n2\t0.1072\t6046\t612\tbuilding, edifice\n",
            "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1576,11664,1172,1,wall\n2,0.1072,6046,612,1,building;edifice\n",
            "Idx   Ratio   Train   Val   Name\n1     0.1576  11664   1172  wall\n2  0.1  60  6  building, edifice\n",
        ],
    )
    def test_names(self, text: str) -> None:
        assert names_of(text, "x") == ("wall", "building")

    def test_names_that_share_their_first_word(self) -> None:
        text = "Idx\tName\n1\tscreen, silver\n2\tscreen, CRT\n3\tdoor\n4\tdoor\n"
        assert names_of(text, "x") == ("screen, silver", "screen, CRT", "door (3)", "door (4)")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("wall\nbuilding\n", "expected columns from Idx to Name"),
            ("Idx\tName\nwall\n", "line 2: expected 2 columns"),
            ("Idx\tName\n2\twall\n", "numbered from 1 without gaps"),
        ],
    )
    def test_wrong_names(self, text: str, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            names_of(text, "x")

    def test_a_list_of_names(self, tmp_path: Path) -> None:
        root = self.made(tmp_path)
        (root / "objectInfo150.txt").write_text("Idx\tName\n" + "".join(f"{n}\tn{n}\n" for n in range(1, 151)))
        assert quietly(root, "ade20k").train.classes[149] == "n150"

    def test_wrong_folders(self, tmp_path: Path) -> None:
        root = self.made(tmp_path / "inner")
        with pytest.raises(InvalidInputError, match=r"no folder images/training.* Is it '.*inner'"):
            load_splits(tmp_path, "ade20k")
        (root / "annotations/training/training_0.png").unlink()
        with pytest.raises(InvalidInputError, match=r"1 item cannot be used:\n.*no training_0\.png"):
            load_splits(root, "ade20k")
        with pytest.warns(UserWarning, match="1 item left out"):
            assert len(load_splits(root, "ade20k", on_bad="skip", validation=0).train) == 3
        for n in range(1, 4):
            (root / f"annotations/training/training_{n}.png").unlink()
        with pytest.raises(InvalidInputError, match="no mask for any image"):
            load_splits(root, "ade20k")

    def test_a_mask_with_more_classes(self, tmp_path: Path) -> None:
        root = self.made(tmp_path)
        Image.fromarray(np.full((18, 20), 200, np.uint8)).save(root / "annotations/validation/validation_0.png")
        splits = quietly(root, "ade20k")
        assert splits.test is not None
        with pytest.raises(InvalidInputError, match="class numbers 199; there are 150 classes"):
            splits.test.check()
