"""Names of the parts that are pointed at."""

from pathlib import Path

import numpy as np
import pytest
from oracle import IMAGES, run

from visprompt.data.referring.image import ReferringImage
from visprompt.errors import InvalidInputError
from visprompt.tasks import Condition, Naming


class TestNaming:
    def test_the_oracle_names_everything_and_the_controls_nothing(self) -> None:
        task = Naming(template="a {}")
        outcome = run(task, Condition("circle"))
        assert outcome.accuracy == 1.0
        assert outcome.rows[0]["answer"] == outcome.rows[0]["text"]
        assert outcome.chance == pytest.approx(1 / len(task.prepare(IMAGES).labels))
        assert run(task, Condition("circle", region="random")).accuracy < 0.3

    def test_subtracting_the_unprompted_image(self) -> None:
        assert run(Naming(template="a {}", subtract="unprompted"), Condition("circle")).accuracy == 1.0

    def test_boxes_without_names_are_refused(self) -> None:
        sample = ReferringImage("p", Path("x.jpg"), np.zeros((1, 4)), IMAGES[0].expressions)
        with pytest.raises(InvalidInputError, match="needs candidates with names"):
            run(Naming(), Condition("circle"), [sample])
