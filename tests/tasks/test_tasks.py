"""Tasks with a runner that knows the answers: what is asked, what counts, what is written, and what survives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.data.referring.image import Expression, ReferringPicture, iou
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError
from visprompt.models import load_model
from visprompt.registry import list_strategies
from visprompt.tasks import Naming, Pointing, Referring, evaluate
from visprompt.tasks.condition import elsewhere, swapped
from visprompt.tasks.data_sources import scene_pictures
from visprompt.utils.jsonl import RowLog

PICTURES = scene_pictures(12)


class FakeModel:
    name = "fake"
    supports = frozenset({"pixels", "attention", "text"})

    def __init__(self) -> None:
        self.calls: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class Oracle:
    """Scores a region by the name of the object whose box it is; knows every picture by its request's id."""

    def __init__(
        self, model: FakeModel, prompter: Any, fit: str, pictures: Sequence[ReferringPicture] = PICTURES
    ) -> None:
        self.model, self.prompter = model, prompter
        self.known = {picture.id: picture for picture in pictures}

    def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
        self.model.calls.append(len(requests))
        rows = []
        for request in requests:
            picture = self.known[request.id]
            for region in request.regions or [None]:
                seen = ""
                if region is not None:
                    overlap = iou(np.array([region.xyxy]), picture.candidates_xyxy)[0]
                    seen = picture.names[int(overlap.argmax())] if overlap.max() > 0.9 else ""
                rows.append([5.0 if seen and seen in text else 0.0 for text in texts])
        return np.array(rows)


def run(task: Any, pointing: Pointing, pictures: Sequence[ReferringPicture] = PICTURES, **options: Any) -> Any:
    options.setdefault("make_runner", Oracle)
    return evaluate(task, options.pop("model", FakeModel()), pointing, pictures, **options)


def on_disk(folder: Path, count: int = 4) -> list[ReferringPicture]:
    made = []
    for one in PICTURES[:count]:
        path = folder / f"{one.id}.png"
        one.image.save(path)  # type: ignore[union-attr]
        made.append(ReferringPicture(one.id, path, one.candidates_xyxy, one.expressions, one.names))
    return made


class TestReferring:
    def test_the_oracle_is_always_right_and_its_rows_have_the_fields_of_the_field(self) -> None:
        outcome = run(Referring(template="{}"), Pointing("circle"), chunk=5)
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
        pictures = scene_pictures(150)
        plain = run(
            Referring(template="{}"), Pointing("none"), pictures, make_runner=lambda m, p, f: Oracle(m, p, f, pictures)
        )
        again = run(
            Referring(template="{}"), Pointing("none"), pictures, make_runner=lambda m, p, f: Oracle(m, p, f, pictures)
        )
        assert [row["pred"] for row in plain.rows] == [row["pred"] for row in again.rows]
        assert plain.accuracy == pytest.approx(plain.chance, abs=0.12)
        random = run(Referring(template="{}"), Pointing("random"), pictures, model=None)
        assert random.accuracy == pytest.approx(plain.chance, abs=0.12)

    def test_another_candidates_box_as_control_is_never_right_for_the_oracle(self) -> None:
        assert run(Referring(template="{}"), Pointing("circle", region="other")).accuracy < 0.5

    def test_subtraction_uses_a_fixed_sample_and_leaves_the_own_text_out(self) -> None:
        task = Referring(template="{}", subtract="negatives", num_negatives=3)
        prepared = task.prepare(PICTURES)
        assert len(prepared.negatives) == 3
        assert prepared == task.prepare(PICTURES)
        outcome = run(task, Pointing("circle"))
        assert outcome.accuracy == 1.0
        assert outcome.rows[0]["scores"][outcome.rows[0]["pred"]] == 5.0

    def test_iou_threshold_any_gold_box_and_no_candidates(self) -> None:
        image = Image.new("RGB", (64, 64))
        gold = np.array([[0.0, 0, 10, 10], [30, 30, 50, 50]])
        candidates = np.array([[0.0, 0, 4, 4], [31, 31, 50, 50]])
        picture = ReferringPicture("p", image, candidates, (Expression("e", "red", gold),), ("blue", "red"))
        outcome = run(
            Referring(template="{}"),
            Pointing("circle"),
            [picture],
            make_runner=lambda m, p, f: Oracle(m, p, f, [picture]),
        )
        assert outcome.rows[0]["correct"] is True
        assert outcome.chance == 0.5
        empty = ReferringPicture("p", image, np.zeros((0, 4)), picture.expressions)
        outcome = run(
            Referring(template="{}"), Pointing("circle"), [empty], make_runner=lambda m, p, f: Oracle(m, p, f, [empty])
        )
        assert outcome.rows[0]["correct"] is False
        assert outcome.rows[0]["pred"] is None

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="negatives"):
            Referring(subtract="negative")  # type: ignore[arg-type]
        with pytest.raises(UnknownNameError, match="naming only"):
            Referring(subtract="unprompted")  # type: ignore[arg-type]


class TestNaming:
    def test_the_oracle_names_everything_and_the_controls_nothing(self) -> None:
        task = Naming(template="a {}")
        outcome = run(task, Pointing("circle"))
        assert outcome.accuracy == 1.0
        assert outcome.rows[0]["answer"] == outcome.rows[0]["text"]
        assert outcome.chance == pytest.approx(1 / len(task.prepare(PICTURES).labels))
        assert run(task, Pointing("circle", region="random")).accuracy < 0.3

    def test_subtracting_the_unprompted_picture(self) -> None:
        assert run(Naming(template="a {}", subtract="unprompted"), Pointing("circle")).accuracy == 1.0

    def test_boxes_without_names_are_refused(self) -> None:
        picture = ReferringPicture("p", Path("x.jpg"), np.zeros((1, 4)), PICTURES[0].expressions)
        with pytest.raises(InvalidInputError, match="needs candidates with names"):
            run(Naming(), Pointing("circle"), [picture])


class TestPointing:
    @pytest.mark.parametrize("aggregate", ["sum", "max"])
    def test_ensembles_join_their_members(self, aggregate: Any) -> None:
        outcome = run(Referring(template="{}"), Pointing("circle|crop", aggregate=aggregate))
        assert max(outcome.rows[0]["scores"]) == (10.0 if aggregate == "sum" else 5.0)
        assert Pointing("circle|crop", aggregate=aggregate).describe()["aggregate"] == aggregate

    def test_values_that_do_not_exist(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'random'"):
            Pointing("circle", region="randm")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="no options"):
            Pointing("none", {"width": 3})
        with pytest.raises(UnknownNameError):
            Pointing("circel").members()

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
        first = run(Referring(template="{}"), Pointing("circle"), log=log, limit=5, model=model)
        second = run(Referring(template="{}"), Pointing("circle"), log=RowLog(log.path), model=model)
        assert (first.reused, second.reused, len(second.rows)) == (0, 5, 12)
        assert sum(model.calls) == 12
        other = run(Referring(template="a {}"), Pointing("circle"), log=RowLog(log.path))
        assert other.reused == 0
        assert other.run != second.run

    def test_a_line_cut_off_by_a_kill_is_made_again(self, tmp_path: Path) -> None:
        path = tmp_path / "items.jsonl"
        run(Referring(template="{}"), Pointing("circle"), log=RowLog(path))
        content = path.read_bytes()
        path.write_bytes(content[:-40])
        outcome = run(Referring(template="{}"), Pointing("circle"), log=RowLog(path))
        assert (outcome.reused, len(outcome.rows)) == (11, 12)
        assert len(RowLog(path).rows()) == 12
        assert path.read_bytes() == content

    def test_a_file_that_is_something_else_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "items.jsonl"
        path.write_text("hello\nworld\n")
        with pytest.raises(InvalidInputError, match="line 1 is not JSON"):
            run(Referring(template="{}"), Pointing("circle"), log=RowLog(path))
        assert path.read_text() == "hello\nworld\n"

    def test_another_picture_under_the_same_name_is_asked_again_alone(self, tmp_path: Path) -> None:
        files, log = on_disk(tmp_path), tmp_path / "items.jsonl"
        first = run(Referring(template="{}"), Pointing("circle"), files, log=RowLog(log))
        assert run(Referring(template="{}"), Pointing("circle"), files, log=RowLog(log)).reused == 4
        Image.new("RGB", (64, 64)).save(files[2].image)  # type: ignore[arg-type]
        again = run(Referring(template="{}"), Pointing("circle"), files, log=RowLog(log))
        assert (again.reused, len(again.rows), again.run) == (3, 4, first.run)
        assert again.rows[2]["file"] != first.rows[2]["file"]
        assert run(Referring(template="{}"), Pointing("circle"), files, log=RowLog(log)).reused == 4


class TestBadItems:
    def test_a_missing_picture_costs_only_itself_and_is_tried_again(self, tmp_path: Path) -> None:
        files = on_disk(tmp_path)
        moved = tmp_path / "moved.png"
        Path(files[1].image).rename(moved)  # type: ignore[arg-type]
        log = RowLog(tmp_path / "items.jsonl")
        outcome = run(Referring(template="{}"), Pointing("circle"), files, log=log)
        assert (len(outcome.rows), len(outcome.errors)) == (3, 1)
        assert files[1].image_name in outcome.errors[0]["error"]
        moved.rename(Path(files[1].image))  # type: ignore[arg-type]
        outcome = run(Referring(template="{}"), Pointing("circle"), files, log=RowLog(log.path))
        assert (len(outcome.rows), len(outcome.errors), outcome.reused) == (4, 0, 3)

    def test_if_nothing_works_the_run_stops(self) -> None:
        gone = [ReferringPicture(p.id, Path("gone.png"), p.candidates_xyxy, p.expressions) for p in PICTURES]
        with pytest.raises(InvalidInputError, match=r"none of the first 12 items could be asked.*gone\.png"):
            run(Referring(template="{}"), Pointing("circle"), gone)

    def test_two_items_with_one_id_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match=r"1 of the items' ids occur more than once.*00003"):
            run(Referring(template="{}"), Pointing("circle"), [*PICTURES, PICTURES[3]])

    @pytest.mark.parametrize(
        "pointing", [Pointing("circle"), Pointing("circle|crop"), Pointing("circle", region="other")]
    )
    def test_scores_that_are_not_finite_cost_their_item_only(self, pointing: Pointing) -> None:
        class Overflowing(Oracle):
            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                found = super().score(requests, texts).astype(np.float16)
                if any(request.id == PICTURES[2].id for request in requests):
                    found[-1, -1] = np.nan
                return found

        outcome = run(Referring(template="{}"), pointing, make_runner=Overflowing)
        assert (len(outcome.rows), len(outcome.errors)) == (11, 1)
        error = outcome.errors[0]
        assert error["id"] == PICTURES[2].expressions[0].id
        assert PICTURES[2].id in error["error"]
        assert f"{pointing.label} gives" in error["error"]
        assert "float16" in error["error"]

    def test_if_no_score_is_finite_the_run_goes_on_without_an_answer(self) -> None:
        class Broken(Oracle):
            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                return super().score(requests, texts) * np.inf

        with np.errstate(invalid="ignore"):
            outcome = run(Naming(template="a {}"), Pointing("circle"), make_runner=Broken)
        assert (outcome.rows, len(outcome.errors), outcome.interval) == ([], 12, None)

    def test_chance_does_not_answer_for_a_picture_that_is_gone(self, tmp_path: Path) -> None:
        files = on_disk(tmp_path)
        Path(files[1].image).unlink()  # type: ignore[arg-type]
        outcomes = [run(Referring(template="{}"), Pointing(name), files) for name in ("random", "circle")]
        assert {tuple(row["id"] for row in outcome.rows) for outcome in outcomes} == {
            tuple(one.expressions[0].id for one in (files[0], *files[2:]))
        }

    def test_a_model_that_cannot_do_it_is_not_a_bad_item(self) -> None:
        class Refusing:
            def __init__(self, *_: Any) -> None: ...

            def score(self, requests: Any, texts: Any) -> Any:
                raise UnsupportedError("no attention here")

        with pytest.raises(UnsupportedError):
            run(Referring(template="{}"), Pointing("circle"), make_runner=Refusing)


def outside(picture: ReferringPicture, which: Sequence[int]) -> ReferringPicture:
    """The same picture with some of its candidates beyond its right edge."""
    boxes, gold = picture.candidates_xyxy.copy(), picture.expressions[0].gold_xyxy
    boxes[list(which)] += [100, 0, 100, 0]
    said = Expression(picture.expressions[0].id, picture.expressions[0].text, gold)
    return ReferringPicture(picture.id, picture.image, boxes, (said,), picture.names)


def gold_index(picture: ReferringPicture) -> int:
    return int(iou(picture.candidates_xyxy, picture.expressions[0].gold_xyxy)[:, 0].argmax())


class TestCandidatesThatCannotBePointedAt:
    @pytest.mark.parametrize("task", [Referring(template="{}"), Referring(template="{}", subtract="negatives")])
    def test_every_row_of_a_column_answers_the_same_items(self, task: Referring) -> None:
        wrong = next(i for i in range(len(PICTURES[1].candidates_xyxy)) if i != gold_index(PICTURES[1]))
        pictures = [PICTURES[0], outside(PICTURES[1], [wrong]), *PICTURES[2:]]
        rows = {}
        for pointing in (Pointing("none"), Pointing("random"), Pointing("circle"), Pointing("circle|crop")):
            outcome = run(task, pointing, pictures)
            assert (len(outcome.rows), outcome.errors) == (12, [])
            rows[pointing.label] = outcome.rows[1]
        assert run(task, Pointing("circle"), pictures).unpointable == 1
        row = rows["circle"]
        assert row["unpointable"] == [wrong]
        assert "lies outside the picture" in row["unpointable_why"]
        assert row["correct"] is True
        assert (row["scores"][wrong], row["probs"][wrong]) == (None, 0.0)
        assert "unpointable" not in rows["none"]
        json.dumps(list(rows.values()), allow_nan=False)

    def test_it_is_chosen_only_if_all_are_like_that(self) -> None:
        every = range(len(PICTURES[1].candidates_xyxy))
        pictures = [PICTURES[0], outside(PICTURES[1], every), *PICTURES[2:]]
        with np.errstate(invalid="raise"):
            outcome = run(Referring(template="{}"), Pointing("circle"), pictures)
        assert len(outcome.rows) == 12
        assert outcome.rows[1]["pred"] in every
        assert sum(outcome.rows[1]["probs"]) == pytest.approx(1, abs=1e-4)

    def test_naming_answers_by_chance(self) -> None:
        task = Naming(template="a {}", subtract="unprompted")
        picture = PICTURES[1]
        moved = outside(picture, [gold_index(picture)])
        said = (Expression("moved", "x", moved.candidates_xyxy[[gold_index(picture)]]),)
        moved = ReferringPicture(moved.id, moved.image, moved.candidates_xyxy, said, moved.names)
        counts = [len(run(task, Pointing(name), [PICTURES[0], moved]).rows) for name in ("none", "circle")]
        assert counts == [2, 2]

    def test_if_that_is_so_everywhere_the_coordinates_are_wrong_and_the_run_stops(self) -> None:
        pictures = [outside(picture, range(len(picture.candidates_xyxy))) for picture in PICTURES]
        with pytest.raises(InvalidInputError, match=r"none of the first 12 items.*pixels of the original picture"):
            run(Referring(template="{}"), Pointing("circle"), pictures)

    def test_a_candidate_that_the_models_crop_removes(self) -> None:
        wide = Image.new("RGB", (160, 64), "grey")
        boxes = np.array([[60.0, 10, 100, 50], [0, 0, 20, 20], [70, 30, 90, 60]])
        made = [
            ReferringPicture(str(i), wide, boxes, (Expression(str(i), "a red star", boxes[[i]]),), ()) for i in range(3)
        ]
        model = load_model("bundled:scenes-clip")
        outcomes = {fit: evaluate(Referring(), model, Pointing("circle", fit=fit), made) for fit in ("model", "squash")}
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
        picture = ReferringPicture("p", image, boxes, (Expression("e", "a red star", boxes[[0]]),))
        model = load_model("bundled:scenes-clip")
        # Some strategies edit what another one before them made.
        strategy = f"circle+{name}" if "prompt" in strategy_needs(name) else name
        outcome = evaluate(Referring(), model, Pointing(strategy, fit="pad"), [picture])
        assert (outcome.errors, outcome.rows[0]["unpointable"]) == ([], [1])
        assert outcome.rows[0]["pred"] != 1


def strategy_needs(name: str) -> Sequence[str]:
    return next(one.needs for one in list_strategies() if one.name == name)
