"""Tasks with a runner that knows the answers: what is asked, what counts, what is written, and what survives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import IMAGES, FakeModel, Oracle, gold_index, run
from PIL import Image

from visprompt.data.referring.image import Expression, ReferringImage, iou
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError
from visprompt.models import load_model
from visprompt.registry import list_strategies
from visprompt.tasks import Condition, Naming, Referring, evaluate
from visprompt.tasks.condition import elsewhere, swapped
from visprompt.utils.jsonl import RowLog


def on_disk(folder: Path, count: int = 4) -> list[ReferringImage]:
    made = []
    for one in IMAGES[:count]:
        path = folder / f"{one.id}.png"
        one.image.save(path)  # type: ignore[union-attr]
        made.append(ReferringImage(one.id, path, one.candidates_xyxy, one.expressions, one.names))
    return made


class TestPointing:
    @pytest.mark.parametrize("aggregate", ["sum", "max"])
    def test_ensembles_join_their_members(self, aggregate: Any) -> None:
        outcome = run(Referring(template="{}"), Condition("circle|crop", aggregate=aggregate))
        assert max(outcome.rows[0]["scores"]) == (10.0 if aggregate == "sum" else 5.0)
        assert Condition("circle|crop", aggregate=aggregate).describe()["aggregate"] == aggregate

    def test_values_that_do_not_exist(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'random'"):
            Condition("circle", region="randm")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="no options"):
            Condition("none", {"width": 3})
        with pytest.raises(UnknownNameError):
            Condition("circel").members()

    def test_random_regions_keep_their_size_and_stay_clear(self) -> None:
        boxes = np.array([[0.0, 0, 20, 10], [40, 40, 60, 64]])
        moved = elsewhere(boxes, (64, 64), np.random.default_rng(0))
        np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2])
        assert (moved >= 0).all()
        assert (moved <= 64).all()
        assert np.diag(iou(boxes, moved)).max() < 0.05
        assert not np.array_equal(swapped(boxes, boxes, np.random.default_rng(0)), boxes)
        assert elsewhere(np.array([[0.0, 0, 64, 64]]), (64, 64), np.random.default_rng(0)).tolist() == [[0, 0, 64, 64]]


class TestResuming:
    def test_rows_that_are_there_are_not_made_again(self, tmp_path: Path) -> None:
        log, model = RowLog(tmp_path / "items.jsonl"), FakeModel()
        first = run(Referring(template="{}"), Condition("circle"), log=log, limit=5, model=model)
        second = run(Referring(template="{}"), Condition("circle"), log=RowLog(log.path), model=model)
        assert (first.reused, second.reused, len(second.rows)) == (0, 5, 12)
        assert sum(model.calls) == 12
        other = run(Referring(template="a {}"), Condition("circle"), log=RowLog(log.path))
        assert other.reused == 0
        assert other.run != second.run

    def test_a_line_cut_off_by_a_kill_is_made_again(self, tmp_path: Path) -> None:
        path = tmp_path / "items.jsonl"
        run(Referring(template="{}"), Condition("circle"), log=RowLog(path))
        content = path.read_bytes()
        path.write_bytes(content[:-40])
        outcome = run(Referring(template="{}"), Condition("circle"), log=RowLog(path))
        assert (outcome.reused, len(outcome.rows)) == (11, 12)
        assert len(RowLog(path).rows()) == 12
        assert path.read_bytes() == content

    def test_a_file_that_is_something_else_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "items.jsonl"
        path.write_text("hello\nworld\n")
        with pytest.raises(InvalidInputError, match="line 1 is not JSON"):
            run(Referring(template="{}"), Condition("circle"), log=RowLog(path))
        assert path.read_text() == "hello\nworld\n"

    def test_another_image_under_the_same_name_is_asked_again_alone(self, tmp_path: Path) -> None:
        files, log = on_disk(tmp_path), tmp_path / "items.jsonl"
        first = run(Referring(template="{}"), Condition("circle"), files, log=RowLog(log))
        assert run(Referring(template="{}"), Condition("circle"), files, log=RowLog(log)).reused == 4
        Image.new("RGB", (64, 64)).save(files[2].image)  # type: ignore[arg-type]
        again = run(Referring(template="{}"), Condition("circle"), files, log=RowLog(log))
        assert (again.reused, len(again.rows), again.run) == (3, 4, first.run)
        assert again.rows[2]["file"] != first.rows[2]["file"]
        assert run(Referring(template="{}"), Condition("circle"), files, log=RowLog(log)).reused == 4


class TestBadItems:
    def test_a_missing_image_costs_only_itself_and_is_tried_again(self, tmp_path: Path) -> None:
        files = on_disk(tmp_path)
        moved = tmp_path / "moved.png"
        Path(files[1].image).rename(moved)  # type: ignore[arg-type]
        log = RowLog(tmp_path / "items.jsonl")
        outcome = run(Referring(template="{}"), Condition("circle"), files, log=log)
        assert (len(outcome.rows), len(outcome.errors)) == (3, 1)
        assert files[1].image_name in outcome.errors[0]["error"]
        moved.rename(Path(files[1].image))  # type: ignore[arg-type]
        outcome = run(Referring(template="{}"), Condition("circle"), files, log=RowLog(log.path))
        assert (len(outcome.rows), len(outcome.errors), outcome.reused) == (4, 0, 3)

    def test_if_nothing_works_the_run_stops(self) -> None:
        gone = [ReferringImage(p.id, Path("gone.png"), p.candidates_xyxy, p.expressions) for p in IMAGES]
        with pytest.raises(InvalidInputError, match=r"none of the first 12 items could be asked.*gone\.png"):
            run(Referring(template="{}"), Condition("circle"), gone)

    def test_two_items_with_one_id_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match=r"1 of the items' ids occur more than once.*00003"):
            run(Referring(template="{}"), Condition("circle"), [*IMAGES, IMAGES[3]])

    @pytest.mark.parametrize(
        "condition", [Condition("circle"), Condition("circle|crop"), Condition("circle", region="other")]
    )
    def test_scores_that_are_not_finite_cost_their_item_only(self, condition: Condition) -> None:
        class Overflowing(Oracle):
            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                found = super().score(requests, texts).astype(np.float16)
                if any(request.id == IMAGES[2].id for request in requests):
                    found[-1, -1] = np.nan
                return found

        outcome = run(Referring(template="{}"), condition, make_runner=Overflowing)
        assert (len(outcome.rows), len(outcome.errors)) == (11, 1)
        error = outcome.errors[0]
        assert error["id"] == IMAGES[2].expressions[0].id
        assert IMAGES[2].id in error["error"]
        assert f"{condition.label} gives" in error["error"]
        assert "float16" in error["error"]

    def test_if_no_score_is_finite_the_run_goes_on_without_an_answer(self) -> None:
        class Broken(Oracle):
            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                return super().score(requests, texts) * np.inf

        with np.errstate(invalid="ignore"):
            outcome = run(Naming(template="a {}"), Condition("circle"), make_runner=Broken)
        assert (outcome.rows, len(outcome.errors), outcome.interval) == ([], 12, None)

    def test_chance_does_not_answer_for_a_image_that_is_gone(self, tmp_path: Path) -> None:
        files = on_disk(tmp_path)
        Path(files[1].image).unlink()  # type: ignore[arg-type]
        outcomes = [run(Referring(template="{}"), Condition(name), files) for name in ("random", "circle")]
        assert {tuple(row["id"] for row in outcome.rows) for outcome in outcomes} == {
            tuple(one.expressions[0].id for one in (files[0], *files[2:]))
        }

    def test_a_model_that_cannot_do_it_is_not_a_bad_item(self) -> None:
        class Refusing:
            def __init__(self, *_: Any) -> None: ...

            def score(self, requests: Any, texts: Any) -> Any:
                raise UnsupportedError("no attention here")

        with pytest.raises(UnsupportedError):
            run(Referring(template="{}"), Condition("circle"), make_runner=Refusing)


def outside(sample: ReferringImage, which: Sequence[int]) -> ReferringImage:
    """The same image with some of its candidates beyond its right edge."""
    boxes, gold = sample.candidates_xyxy.copy(), sample.expressions[0].gold_xyxy
    boxes[list(which)] += [100, 0, 100, 0]
    said = Expression(sample.expressions[0].id, sample.expressions[0].text, gold)
    return ReferringImage(sample.id, sample.image, boxes, (said,), sample.names)


class TestCandidatesThatCannotBePointedAt:
    @pytest.mark.parametrize("task", [Referring(template="{}"), Referring(template="{}", subtract="negatives")])
    def test_every_row_of_a_column_answers_the_same_items(self, task: Referring) -> None:
        wrong = next(i for i in range(len(IMAGES[1].candidates_xyxy)) if i != gold_index(IMAGES[1]))
        samples = [IMAGES[0], outside(IMAGES[1], [wrong]), *IMAGES[2:]]
        rows = {}
        for condition in (Condition("none"), Condition("random"), Condition("circle"), Condition("circle|crop")):
            outcome = run(task, condition, samples)
            assert (len(outcome.rows), outcome.errors) == (12, [])
            rows[condition.label] = outcome.rows[1]
        assert run(task, Condition("circle"), samples).unpointable == 1
        row = rows["circle"]
        assert row["unpointable"] == [wrong]
        assert "lies outside the image" in row["unpointable_why"]
        assert row["correct"] is True
        assert (row["scores"][wrong], row["probs"][wrong]) == (None, 0.0)
        assert "unpointable" not in rows["none"]
        json.dumps(list(rows.values()), allow_nan=False)

    def test_it_is_chosen_only_if_all_are_like_that(self) -> None:
        every = range(len(IMAGES[1].candidates_xyxy))
        samples = [IMAGES[0], outside(IMAGES[1], every), *IMAGES[2:]]
        with np.errstate(invalid="raise"):
            outcome = run(Referring(template="{}"), Condition("circle"), samples)
        assert len(outcome.rows) == 12
        assert outcome.rows[1]["pred"] in every
        assert sum(outcome.rows[1]["probs"]) == pytest.approx(1, abs=1e-4)

    def test_naming_answers_by_chance(self) -> None:
        task = Naming(template="a {}", subtract="unprompted")
        sample = IMAGES[1]
        moved = outside(sample, [gold_index(sample)])
        said = (Expression("moved", "x", moved.candidates_xyxy[[gold_index(sample)]]),)
        moved = ReferringImage(moved.id, moved.image, moved.candidates_xyxy, said, moved.names)
        counts = [len(run(task, Condition(name), [IMAGES[0], moved]).rows) for name in ("none", "circle")]
        assert counts == [2, 2]

    def test_if_that_is_so_everywhere_the_coordinates_are_wrong_and_the_run_stops(self) -> None:
        samples = [outside(sample, range(len(sample.candidates_xyxy))) for sample in IMAGES]
        with pytest.raises(InvalidInputError, match=r"none of the first 12 items.*pixels of the original image"):
            run(Referring(template="{}"), Condition("circle"), samples)

    def test_a_candidate_that_the_models_crop_removes(self) -> None:
        wide = Image.new("RGB", (160, 64), "grey")
        boxes = np.array([[60.0, 10, 100, 50], [0, 0, 20, 20], [70, 30, 90, 60]])
        made = [
            ReferringImage(str(i), wide, boxes, (Expression(str(i), "a red star", boxes[[i]]),), ()) for i in range(3)
        ]
        model = load_model("bundled:scenes-clip")
        outcomes = {
            fit: evaluate(Referring(), model, Condition("circle", fit=fit), made) for fit in ("model", "squash")
        }
        assert [len(outcome.rows) for outcome in outcomes.values()] == [3, 3]
        assert outcomes["model"].rows[0]["unpointable"] == [1]
        assert "crops" in outcomes["model"].rows[0]["unpointable_why"]
        assert 1 not in [row["pred"] for row in outcomes["model"].rows]
        assert outcomes["squash"].unpointable == 0

    # Those that take a region or a prompt before them; what is learned without one (gated, vpt) does not point.
    @pytest.mark.parametrize(
        "name", sorted(one.name for one in list_strategies() if not {"query", "training"} & set(one.needs))
    )
    def test_no_strategy_loses_the_item(self, name: str) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 160, 3), dtype=np.uint8))
        boxes = np.array([[60.0, 10, 100, 50], [300, 3, 310, 9], [70, 30, 90, 60]])
        sample = ReferringImage("p", image, boxes, (Expression("e", "a red star", boxes[[0]]),))
        model = load_model("bundled:scenes-clip")
        # Some strategies edit what another one before them made.
        strategy = f"circle+{name}" if "prompt" in strategy_needs(name) else name
        outcome = evaluate(Referring(), model, Condition(strategy, fit="pad"), [sample])
        assert (outcome.errors, outcome.rows[0]["unpointable"]) == ([], [1])
        assert outcome.rows[0]["pred"] != 1


def strategy_needs(name: str) -> Sequence[str]:
    return next(one.needs for one in list_strategies() if one.name == name)
