"""Parts of a data set: drawn, limited, joined."""

import numpy as np
import pytest
from helpers import numbered

from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.errors import InvalidInputError


class TestParts:
    def test_split_is_stratified_complete_and_repeatable(self) -> None:
        data = numbered(90)
        rest, part = data.split(0.2, seed=3)
        assert (len(rest), len(part)) == (72, 18)
        assert np.bincount(part.labels).tolist() == [6, 6, 6]
        assert {*rest.files(), *part.files()} == set(data.files())
        assert part.files() == data.split(0.2, seed=3)[1].files() != data.split(0.2, seed=4)[1].files()

    def test_proportions_of_rare_classes(self) -> None:
        data = Labelled([(f"{n}.jpg", 0 if n < 97 else 1) for n in range(100)], ["often", "rare"])
        _, part = data.split(0.5, seed=0)
        assert len(part) == 50
        assert np.bincount(part.labels)[1] in (1, 2)

    def test_a_class_of_one_stays_in_training(self) -> None:
        data = Labelled([(f"{n}.jpg", max(n - 5, 0)) for n in range(10)], [str(n) for n in range(5)])
        for seed in range(20):
            rest, part = data.split(0.5, seed)
            assert (set(rest.labels), len(part)) == ({0, 1, 2, 3, 4}, 5)
        lonely = Labelled([(f"{n}.jpg", n) for n in range(4)], "abcd")
        assert [len(part) for part in lonely.split(0.5, 0)] == [2, 2]

    def test_the_draw_never_changes(self) -> None:
        """A run that is resumed under another numpy has to see the same validation part."""
        assert numbered(12).split(0.25, seed=0)[1].files() == FROZEN_SPLIT

    def test_limited(self) -> None:
        data = numbered(30)
        few = data.limited(6)
        assert np.bincount(few.labels).tolist() == [2, 2, 2]
        assert few.files() == sorted(few.files(), key=lambda name: int(name[:-4]))
        assert data.limited(None) is data
        assert data.limited(99) is data
        rare = Labelled([(f"{n}.jpg", int(n == 0)) for n in range(100)], "ab")
        assert np.bincount(rare.limited(5).labels).tolist() == [4, 1]
        with pytest.raises(InvalidInputError, match="at least one"):
            data.limited(0)

    @pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
    def test_shares_that_leave_nothing(self, share: float) -> None:
        with pytest.raises(InvalidInputError, match="cannot be split off"):
            numbered(9).split(share, seed=0)

    def test_a_single_item_cannot_be_split(self) -> None:
        with pytest.raises(InvalidInputError, match="both parts need an item"):
            numbered(1, 1).split(0.5, seed=0)

    def test_joined(self) -> None:
        data = numbered(9)
        rest, part = data.split(0.3, seed=0)
        assert sorted(rest.joined(part).files()) == sorted(data.files())
        with pytest.raises(InvalidInputError, match="cannot be joined"):
            data.joined(numbered(4, 2))

    def test_final_trains_on_both(self) -> None:
        rest, part = numbered(9).split(0.3, seed=0)
        final = Splits(rest, part, None, "From here.").final()
        assert (len(final.train), final.validation) == (9, None)
        assert final.protocol.startswith("From here. Trained on train and validation together")
        assert final.final() is final

    @pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "dog", "cow"), ("Cat", "Dog")])
    def test_parts_have_the_same_classes_in_the_same_order(self, names: tuple[str, ...]) -> None:
        """A label is a number: figures of mixed-up classes would look like any others."""
        train, other = Labelled([("a.jpg", 0), ("b.jpg", 1)], ("cat", "dog")), Labelled([("c.jpg", 0)], names)
        with pytest.raises(InvalidInputError, match="test has other classes than train, or in another order"):
            Splits(train, None, other, "so")
        with pytest.raises(InvalidInputError, match="validation has other classes"):
            Splits(train, other, None, "so")

    def test_parts_are_of_one_kind(self) -> None:
        masks = Labelled([("c.jpg", "c.png")], ("cat", "dog"), kind="segmentation")
        with pytest.raises(InvalidInputError, match="train is for classification, and test for segmentation"):
            Splits(Labelled([("a.jpg", 0)], ("cat", "dog")), None, masks, "so")

    def test_an_empty_subset(self) -> None:
        with pytest.raises(InvalidInputError, match="no item is left"):
            numbered(3).subset([])


FROZEN_SPLIT = ["4.jpg", "9.jpg", "11.jpg"]
