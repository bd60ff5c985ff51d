"""Referring expressions: the right box among candidates."""

import json

import numpy as np
import pytest
from oracle import IMAGES, Oracle, run
from PIL import Image

from visprompt.data.referring.image import Expression, ReferringImage
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.tasks import Condition, Referring
from visprompt.tasks.data_sources import scene_images


class TestReferring:
    def test_the_oracle_is_always_right_and_its_rows_have_the_fields_of_the_field(self) -> None:
        outcome = run(Referring(template="{}"), Condition("circle"), chunk=5)
        assert outcome.accuracy == 1.0
        row = outcome.rows[0]
        assert {"probs", "pred", "box", "bboxes", "text", "correct", "gold_index"} <= row.keys()
        assert row["box"] == row["bboxes"][row["pred"]]
        assert row["pred"] == row["gold_index"]
        assert sum(row["probs"]) == pytest.approx(1, abs=1e-4)
        assert 0.1 < outcome.chance < 0.4
        json.dumps(outcome.rows)

    def test_template_is_filled_with_lower_case(self) -> None:
        assert Referring().prompt(" Left MAN ") == "a photo of left man"
        with pytest.raises(InvalidInputError, match="template needs"):
            Referring(template="a photo")

    def test_without_a_prompt_the_choice_is_by_chance_and_repeatable(self) -> None:
        samples = scene_images(150)
        plain = run(
            Referring(template="{}"), Condition("none"), samples, make_runner=lambda m, p, f: Oracle(m, p, f, samples)
        )
        again = run(
            Referring(template="{}"), Condition("none"), samples, make_runner=lambda m, p, f: Oracle(m, p, f, samples)
        )
        assert [row["pred"] for row in plain.rows] == [row["pred"] for row in again.rows]
        assert plain.accuracy == pytest.approx(plain.chance, abs=0.12)
        random = run(Referring(template="{}"), Condition("random"), samples, model=None)
        assert random.accuracy == pytest.approx(plain.chance, abs=0.12)

    def test_another_candidates_box_as_control_is_never_right_for_the_oracle(self) -> None:
        assert run(Referring(template="{}"), Condition("circle", region="other")).accuracy < 0.5

    def test_subtraction_uses_a_fixed_sample_and_leaves_the_own_text_out(self) -> None:
        task = Referring(template="{}", subtract="negatives", num_negatives=3)
        prepared = task.prepare(IMAGES)
        assert len(prepared.negatives) == 3
        assert prepared == task.prepare(IMAGES)
        outcome = run(task, Condition("circle"))
        assert outcome.accuracy == 1.0
        assert outcome.rows[0]["scores"][outcome.rows[0]["pred"]] == 5.0

    def test_iou_threshold_any_gold_box_and_no_candidates(self) -> None:
        image = Image.new("RGB", (64, 64))
        gold = np.array([[0.0, 0, 10, 10], [30, 30, 50, 50]])
        candidates = np.array([[0.0, 0, 4, 4], [31, 31, 50, 50]])
        sample = ReferringImage("p", image, candidates, (Expression("e", "red", gold),), ("blue", "red"))
        outcome = run(
            Referring(template="{}"),
            Condition("circle"),
            [sample],
            make_runner=lambda m, p, f: Oracle(m, p, f, [sample]),
        )
        assert outcome.rows[0]["correct"] is True
        assert outcome.chance == 0.5
        empty = ReferringImage("p", image, np.zeros((0, 4)), sample.expressions)
        outcome = run(
            Referring(template="{}"), Condition("circle"), [empty], make_runner=lambda m, p, f: Oracle(m, p, f, [empty])
        )
        assert outcome.rows[0]["correct"] is False
        assert outcome.rows[0]["pred"] is None

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="negatives"):
            Referring(subtract="negative")  # type: ignore[arg-type]
        with pytest.raises(UnknownNameError, match="naming only"):
            Referring(subtract="unprompted")  # type: ignore[arg-type]
