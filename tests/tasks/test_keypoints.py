"""Keypoint naming: what is asked at points, where strategies are pointed to, and what is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import visprompt as vp
from visprompt.bench.pipeline import run_suite
from visprompt.bench.suite import Suite, load_suite, parse_suite
from visprompt.data.referring.keypoints import PointedImage
from visprompt.data.scenes import world as scenes
from visprompt.data.scenes.points import scene_points
from visprompt.data.scenes.world import all_names
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.registry import list_strategies
from visprompt.tasks import Condition, Keypoints, Naming, Referring, evaluate
from visprompt.tasks.data_sources import load_data, scene_images
from visprompt.utils.jsonl import RowLog

IMAGES = scene_points(10, points=2)
NAMES = tuple(all_names())


class FakeModel:
    name = "fake"
    supports = frozenset({"pixels", "attention", "text"})

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class Oracle:
    """Knows which object the middle of a region lies on; of the plain image, that everything is a red star."""

    def __init__(self, model: FakeModel, prompter: Any, fit: str) -> None:
        self.model, self.prompter = model, prompter

    def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for request in requests:
            number = int(request.id.rsplit("-", 1)[1])
            scene = scenes.scene(0, "test", kind="hard", index=number)
            for region in request.regions or [None]:
                self.model.asked.append(region)
                if region is None:
                    rows.append([3.0 * ("red star" in text) for text in texts])
                    continue
                x, y = (region.x, region.y) if isinstance(region, vp.Point) else (-1, -1)
                under = [item.name for item in scene.objects if x >= 0 and item.mask[int(y), int(x)]]
                rows.append([5.0 * (bool(under) and under[0] in text) + 3.0 * ("red star" in text) for text in texts])
        return np.array(rows)


def run(task: Any, condition: Condition, samples: Any = IMAGES, **options: Any) -> Any:
    return evaluate(task, options.pop("model", FakeModel()), condition, samples, make_runner=Oracle, **options)


# -- points in scenes -------------------------------------------------------------------------------------------------


def test_points_lie_on_the_objects_that_they_name() -> None:
    samples = scene_points(60, points=3)
    assert {len(one.names) for one in samples} == {3}
    for number, sample in enumerate(samples):
        scene = scenes.scene(0, "test", kind="hard", index=number)
        np.testing.assert_array_equal(np.asarray(sample.image), scene.image)
        assert set(sample.choices) == {item.name for item in scene.objects}
        for (x, y), name in zip(sample.points_xy, sample.names, strict=True):
            assert [item.name for item in scene.objects if item.mask[int(y), int(x)]] == [name]


def test_inside_is_deeper_than_the_edge() -> None:
    import cv2

    depths: dict[str, list[float]] = {"inside": [], "edge": []}
    for number, sample in enumerate(scene_points(40, points=2)):
        scene = scenes.scene(0, "test", kind="hard", index=number)
        for (x, y), kind in zip(sample.points_xy, sample.kinds, strict=True):
            (mask,) = [item.mask for item in scene.objects if item.mask[int(y), int(x)]]
            depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            depths[kind].append(float(depth[int(y) + 1, int(x) + 1]))
            if kind == "inside":
                assert depths[kind][-1] == depth.max()
    assert max(depths["edge"]) < 1.5
    assert min(depths["inside"]) > 1.5


def test_points_depend_on_their_scene_alone() -> None:
    few, many = scene_points(3, points=2), scene_points(30, points=2)
    for one, other in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.points_xy, other.points_xy)
        assert one.ids == other.ids
    assert not np.array_equal(scene_points(1, split="validation", points=2)[0].points_xy, few[0].points_xy)
    assert [one.kinds for one in scene_points(3)] == [("inside",), ("edge",), ("inside",)]
    spots = scene_points(20, points=99)
    assert {len(one.names) for one in spots} == {3, 4, 5, 6}


def test_bad_points() -> None:
    with pytest.raises(InvalidInputError, match="unknown split 'tst'"):
        scene_points(2, split="tst")
    with pytest.raises(InvalidInputError, match="at least 1"):
        scene_points(2, points=0)
    with pytest.raises(InvalidInputError, match="2 names go with 2 points"):
        PointedImage("a", Image.new("RGB", (8, 8)), np.zeros((3, 2)), ("x", "y"), ("1", "2"))


# -- the task ---------------------------------------------------------------------------------------------------------


def test_every_point_is_an_item_and_a_point_to_the_strategy() -> None:
    model = FakeModel()
    found = run(Keypoints(template="a {}", labels=NAMES), Condition("circle"), model=model)
    assert found.accuracy == 1.0
    assert found.chance == pytest.approx(1 / 64)
    assert len(found.rows) == sum(len(one.names) for one in IMAGES) == len(model.asked)
    places = [spot for one in IMAGES for spot in one.points_xy.tolist()]
    assert [[region.x, region.y] for region in model.asked] == places
    assert {round(region.radius, 6) for region in model.asked} == {3.2}  # 5 % of 64
    row = found.rows[1]
    assert row["kind"] == "edge"
    assert row["point_xy"] == places[1]
    assert row["text"] == row["answer"] == IMAGES[0].names[1]
    assert row["in_image"] is True


def test_a_wrong_place_is_a_wrong_answer() -> None:
    labels = tuple(name for name in NAMES)
    elsewhere = run(Keypoints(labels=labels), Condition("circle", region="random"))
    other = run(Keypoints(labels=labels), Condition("circle", region="other"))
    assert elsewhere.accuracy < 0.3
    assert other.accuracy < 0.3
    model = FakeModel()
    run(Keypoints(labels=labels), Condition("circle", region="random"), model=model)
    assert all(isinstance(region, vp.Point) for region in model.asked)
    assert all(3.2 <= region.x <= 60.8 and region.radius == pytest.approx(3.2) for region in model.asked)


def test_among_the_names_of_the_image() -> None:
    found = run(Keypoints(among="image"), Condition("circle", region="random"))
    every = {sample.id: set(sample.choices) for sample in IMAGES}
    assert all(row["answer"] in every[row["image"]] for row in found.rows)
    expected = np.mean([1 / len(every[row["image"]]) for row in found.rows])
    assert found.chance == pytest.approx(expected)
    assert found.chance > 0.1
    assert run(Keypoints(among="image"), Condition("circle")).accuracy == 1.0


def test_subtracting_the_plain_image() -> None:
    class Biased(Oracle):
        def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
            bias = np.array([9.0 if "red star" in text else 0.0 for text in texts])
            return super().score(requests, texts) + bias

    task = Keypoints(labels=NAMES)
    names = [name for one in IMAGES for name in one.names]
    biased = evaluate(task, FakeModel(), Condition("circle"), IMAGES, make_runner=Biased)
    assert biased.accuracy == names.count("red star") / len(names)
    corrected = Keypoints(labels=NAMES, subtract="unprompted")
    assert evaluate(corrected, FakeModel(), Condition("circle"), IMAGES, make_runner=Biased).accuracy == 1.0


def test_labels_by_default_and_unknown_ones() -> None:
    task = Keypoints().prepare(IMAGES)
    assert set(task.labels) == {name for one in IMAGES for name in one.choices}
    with pytest.raises(InvalidInputError, match="is none of the 1 labels"):
        Keypoints(labels=("red star",)).prepare(IMAGES)
    with pytest.raises(InvalidInputError, match="has none: the data sources scenes-points and cub"):
        Keypoints().prepare(scene_images(2))
    with pytest.raises(UnknownNameError, match="did you mean 'image'"):
        Keypoints(among="images")  # type: ignore[arg-type]


def test_the_name_that_among_had_in_0_4_0_is_read_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="the value 'picture' is called 'image' now"):
        old = Keypoints(among="picture")  # type: ignore[arg-type]
    assert old == Keypoints(among="image")
    # The settings are part of a row's hash: both names give the same one.
    assert old.settings()["among"] == "image"


def test_the_other_way_round() -> None:
    """Which of the points is the red star? The task `referring` on the same data."""
    first = [one for one in IMAGES if len(set(one.names)) == 2]
    found = run(Referring(template="{}"), Condition("circle"), first)
    assert found.accuracy == 1.0
    assert found.chance == pytest.approx(0.5)


def test_rows_are_kept_and_taken_up_again(tmp_path: Path) -> None:
    log, model = RowLog(tmp_path / "rows.jsonl"), FakeModel()
    first = run(Keypoints(labels=NAMES), Condition("circle"), log=log, limit=4, model=model)
    asked = len(model.asked)
    again = run(Keypoints(labels=NAMES), Condition("circle"), log=log, model=model)
    assert again.reused == len(first.rows) == asked
    assert len(model.asked) == len(again.rows)


def test_a_missing_image_and_a_point_outside_cost_their_own_items(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    spots = np.array([[10.0, 10.0], [20.0, 20.0]])
    samples = [
        PointedImage("0", tmp_path / "a.png", spots, ("x", "y"), ("0/0", "0/1")),
        PointedImage("1", tmp_path / "gone.png", spots, ("x", "y"), ("1/0", "1/1")),
        PointedImage("2", tmp_path / "a.png", spots * 5, ("x", "y"), ("2/0", "2/1")),
    ]

    class Flat:
        def __init__(self, *_: Any) -> None: ...

        def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
            return np.zeros((sum(len(one.units()) for one in requests), len(texts)))

    found = evaluate(Keypoints(), FakeModel(), Condition("circle"), samples, make_runner=Flat)
    assert [row["id"] for row in found.rows] == ["0/0", "0/1"]
    assert [row["id"] for row in found.errors] == ["1/0", "1/1", "2/0", "2/1"]
    assert "outside the image" in found.errors[-1]["error"]


# -- with models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(info.name for info in list_strategies() if "region" in info.needs))
def test_strategies_take_points(name: str) -> None:
    if name == "unleash":
        name = "circle+unleash"
    model = vp.load_model("bundled:scenes-clip")
    found = evaluate(Keypoints(template="a {}", labels=NAMES), model, Condition(name), IMAGES[:2])
    assert len(found.rows) == 4
    assert not found.errors


def test_pointing_at_points_with_attention_names_them() -> None:
    model = vp.load_model("bundled:scenes-clip")
    options = {"target_mass": 0.9, "first_block": 2}
    task = Keypoints(template="a {}", labels=NAMES)
    samples = scene_points(40, split="validation")
    pointed = evaluate(task, model, Condition("falip", options), samples)
    plain = evaluate(task, model, Condition("none"), samples)
    assert pointed.accuracy > plain.accuracy + 0.4


def test_in_suites(tmp_path: Path) -> None:
    content = {
        "tasks": {"points": {"task": "keypoints", "template": "a {}", "labels": "scenes", "data": DATA}},
        "strategies": ["none", "falip"],
        "controls": [{"strategy": "falip", "region": "random"}],
        "examples": 1,
    }
    suite = parse_suite(content, "points")
    assert isinstance(suite, Suite)
    result = run_suite(suite, models=["bundled:scenes-clip"], out=tmp_path / "out")
    assert [row["n"] for row in result.rows] == [12, 12, 12]
    assert result.rows[1]["settings"]["task"] == "keypoints"
    bad: dict[str, Any] = {**content, "tasks": {"points": {"task": "keypoints", "data": {**DATA, "points": 0}}}}
    with pytest.raises(InvalidInputError, match=r"points .*at least 1"):
        parse_suite(bad, "points")


DATA = {"source": "scenes-points", "split": "test", "n": 6, "points": 2}


def test_the_source_says_what_the_points_are() -> None:
    data = load_data(DATA)
    assert load_data({**DATA, "n": 9}).identity == data.identity
    for other in ({"points": 3}, {"split": "validation"}, {"seed": 1}, {"kind": "any"}):
        assert load_data({**DATA, **other}).identity["hash"] != data.identity["hash"]


def test_the_suite_of_cub() -> None:
    suite = load_suite("cub")
    assert isinstance(suite, Suite)
    assert {one.task.name for one in suite.tasks} == {"keypoints"}
    assert "the {} of a bird" in {getattr(one.task, "template", "") for one in suite.tasks}
    assert isinstance(suite.tasks[0].task, Naming)
