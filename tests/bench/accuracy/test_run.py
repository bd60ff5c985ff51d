"""The bench, with a runner that knows the answers: no model needed."""

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from visprompt.bench.kind import ProgressCallback
from visprompt.bench.pipeline import run_suite
from visprompt.bench.suite import parse_suite
from visprompt.bench.workers import automatic_jobs, cores
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError
from visprompt.utils.jsonl import read_jsonl
from visprompt.utils.provenance import source_digest

SCENES = {"source": "scenes", "kind": "hard", "split": "test", "n": 12}
CONTENT: dict[str, Any] = {
    "title": "A suite",
    "models": ["fake"],
    "tasks": {"boxes": {"task": "referring", "template": "{}", "data": SCENES}},
    "strategies": ["none", "falip"],
    "controls": ["random"],
    "tune": [{"strategy": "falip", "grid": {"strength": [0.5, 2.0, 1.0]}, "data": {"split": "validation", "n": 6}}],
}


class FakeModel:
    name = "fake"
    supports = frozenset({"pixels", "text"})

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class Fake:
    """Answers by mean colour, weighted with the strategy's strength: better with 2.0 than with 0.5."""

    calls: list[int] = []

    def __init__(self, model: Any, prompter: Any, fit: str) -> None:
        given = prompter.options.strength if prompter is not None else 0.0
        self.strength = 4.0 if given is None else given

    def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
        Fake.calls.append(len(requests))
        rng = np.random.default_rng(int(self.strength * 10))
        rows = []
        for request in requests:
            image = np.asarray(request.pil_image, dtype=float)
            for region in request.regions or [None]:
                x0, y0, x1, y1 = (int(v) for v in (region.xyxy if region else (0, 0, 64, 64)))
                colour = np.median(image[y0:y1, x0:x1].reshape(-1, 3), axis=0)
                rows.append([self.strength * _closeness(colour, text) + rng.normal() for text in texts])
        return np.array(rows)


def _closeness(colour: np.ndarray, text: str) -> float:
    from visprompt.data.scenes.world import COLOUR_RGB

    named = next((rgb for name, rgb in COLOUR_RGB.items() if name in text.split()), (0, 0, 0))
    return -float(np.abs(colour - np.array(named)).sum()) / 50


def bench(tmp_path: Path, content: dict[str, Any] = CONTENT, **options: Any) -> Any:
    options.setdefault("models", [FakeModel()])
    options.setdefault("make_runner", Fake)
    return run_suite(parse_suite(content, "test"), out=tmp_path / "out", **options)


class TestBench:
    def test_rows_carry_their_provenance(self, tmp_path: Path) -> None:
        result = bench(tmp_path)
        rows = read_jsonl(tmp_path / "out/results.jsonl")
        assert [row["row"] for row in rows] == ["none", "falip", "random"]
        row = rows[1]
        assert row["provenance"]["versions"]["torch"]
        assert row["model_identity"]["weights"] == "0" * 16
        assert row["data"]["hash"]
        assert row["provenance"]["code"] == source_digest()
        assert row["settings"]["template"] == "{}"
        assert (row["boxes"], row["n"], row["images"]) == ("gold", 12, 12)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["pointing"]["members"][0]["options"]["strength"] == row["tuned"]["options"]["strength"]
        assert set(row["comparisons"]) == {"none"}
        assert row["comparisons"]["none"]["n"] == 12
        assert {"seconds", "chance", "ci_method"} <= row.keys()
        assert {"date", "git_commit", "machine"} <= row["provenance"].keys()
        assert (row["kind"], row["suite"], row["metric"]) == ("accuracy", "test", "accuracy")
        assert not result.problems

    def test_options_are_chosen_on_validation_and_the_first_best_stands(self, tmp_path: Path) -> None:
        result = bench(tmp_path)
        (record,) = result.files["tuning"]
        assert [point["options"]["strength"] for point in record["points"]] == [0.5, 2.0, 1.0]
        best = max(record["points"], key=lambda point: point["mean"])
        assert record["options"] == best["options"]
        assert record["data"]["split"] == "validation"
        assert read_jsonl(tmp_path / "out/tuning.jsonl")[0]["options"] == record["options"]

    def test_a_second_run_asks_nothing_and_says_the_same(self, tmp_path: Path) -> None:
        first = bench(tmp_path)
        Fake.calls.clear()
        second = bench(tmp_path)
        assert not Fake.calls
        keys = ("value", "low", "high", "comparisons", "seconds", "provenance", "run")
        assert [[row[key] for key in keys] for row in second.rows] == [[row[key] for key in keys] for row in first.rows]
        bench(tmp_path, fresh=True)
        assert Fake.calls

    def test_a_run_of_some_rows_keeps_the_others(self, tmp_path: Path) -> None:
        content = {**CONTENT, "controls": ["random"], "compare_with": ["none", "falip"]}
        whole = bench(tmp_path, content)
        before = read_jsonl(tmp_path / "out/results.jsonl")
        assert len(before) == 3
        part = bench(tmp_path, content, strategies=["random"])
        after = read_jsonl(tmp_path / "out/results.jsonl")
        keys = ("model", "task", "row", "value", "run", "comparisons")
        assert [[row[key] for key in keys] for row in after] == [[row[key] for key in keys] for row in before]
        assert [row["row"] for row in part.rows] == ["none", "falip", "random"]
        assert [record["options"] for record in part.files["tuning"]] == [
            record["options"] for record in whole.files["tuning"]
        ]
        assert not part.problems

    def test_a_killed_run_leaves_the_table_whole(self, tmp_path: Path) -> None:
        bench(tmp_path)

        class Killed(ProgressCallback):
            def starts(self, title: str) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bench(tmp_path, progress=Killed())
        assert [row["row"] for row in read_jsonl(tmp_path / "out/results.jsonl")] == ["none", "falip", "random"]

    def test_rows_made_in_another_way_are_pointed_out(self, tmp_path: Path) -> None:
        bench(tmp_path)
        result = bench(tmp_path, limit=3, strategies=["none"])
        assert [row["n"] for row in result.rows] == [3, 12, 12]
        assert any("another limit (falip, random on fake)" in problem for problem in result.problems)
        assert [row["n"] for row in bench(tmp_path, limit=3, strategies=["none"], fresh=True).rows] == [3]

    def test_models_add_up_and_namesakes_stay_apart(self, tmp_path: Path) -> None:
        class Other(FakeModel):
            def describe(self) -> dict[str, Any]:
                return {"name": self.name, "weights": "abcdef0123456789"}

        bench(tmp_path)
        result = bench(tmp_path, models=[Other()])
        assert [row["model"] for row in result.rows] == ["fake"] * 3 + ["fake-abcdef"] * 3
        assert (tmp_path / "out/items-boxes-fake-abcdef.jsonl").exists()
        Fake.calls.clear()
        again = bench(tmp_path, models=[Other(), FakeModel()])
        assert [row["model"] for row in again.rows] == ["fake"] * 3 + ["fake-abcdef"] * 3
        assert not Fake.calls

    def test_fresh_forgets_nothing_before_data_and_model_are_there(self, tmp_path: Path) -> None:
        bench(tmp_path)
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        lost = {**CONTENT, "tune": [], "tasks": {"boxes": {"task": "referring", "data": {"source": "reclip"}}}}
        with pytest.raises(InvalidInputError, match="needs file"):
            bench(tmp_path, lost, fresh=True)
        with pytest.raises(UnknownNameError, match="bundled"):
            bench(tmp_path, models=["bundled:none"], fresh=True)
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        (tmp_path / "out/results.jsonl").write_text("not JSON\n")
        with pytest.raises(InvalidInputError, match="--fresh"):
            bench(tmp_path)
        assert len(bench(tmp_path, strategies=["none"], fresh=True).rows) == 1
        assert [path.name for path in sorted((tmp_path / "out").glob("items-*"))] == ["items-boxes-fake.jsonl"]

    def test_the_folder_is_tried_before_the_model(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file")
        for out in (tmp_path / "out", tmp_path / "out/below"):
            with pytest.raises(InvalidInputError, match="is a file and not a folder"):
                run_suite("scenes-quick", models=["bundled:none"], out=out)

    def test_fit_reaches_the_runner_and_the_row(self, tmp_path: Path) -> None:
        seen = set()

        def make(model: Any, prompter: Any, fit: str) -> Fake:
            seen.add(fit)
            return Fake(model, prompter, fit)

        result = bench(tmp_path, {**CONTENT, "fit": "squash"}, make_runner=make)
        assert seen == {"squash"}
        assert result.rows[1]["pointing"]["fit"] == "squash"

    def test_limit_strategy_and_names(self, tmp_path: Path) -> None:
        result = bench(tmp_path, limit=3, strategies=["random"])
        assert [(row["row"], row["n"]) for row in result.rows] == [("random", 3)]
        with pytest.raises(UnknownNameError, match="did you mean 'falip'"):
            bench(tmp_path, strategies=["flip"])
        with pytest.raises(InvalidInputError, match="at least 1"):
            bench(tmp_path, limit=0)
        with pytest.raises(InvalidInputError, match="names no model"):
            bench(tmp_path, {**CONTENT, "models": []}, models=None)

    def test_a_row_that_the_model_cannot_run_is_said_and_the_others_run(self, tmp_path: Path) -> None:
        class Refusing(Fake):
            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                if self.strength:
                    raise UnsupportedError("no attention here")
                return super().score(requests, texts)

        result = bench(tmp_path, make_runner=Refusing)
        assert [row["value"] is None for row in result.rows] == [False, True, False]
        assert any("no attention here" in problem for problem in result.problems)

    def test_workers_leave_rows_that_the_run_finds(self, tmp_path: Path) -> None:
        content = {**CONTENT, "tune": [], "tasks": {"boxes": {**CONTENT["tasks"]["boxes"], "data": {**SCENES, "n": 3}}}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        models = ["bundled:scenes-clip", "bundled:scenes-clip-annotated"]

        def unused(*_: Any) -> Any:
            raise AssertionError("everything should be there already")

        result = run_suite(tmp_path / "own.yaml", models=models, out=tmp_path / "out", jobs=2, make_runner=unused)
        assert [(row["n"], row["reused"]) for row in result.rows] == [(3, 0)] * 6  # no answer was there before
        assert all(row["seconds"] > 0 for row in result.rows if row["row"] != "random")
        assert not list((tmp_path / "out").glob("part-*"))
        again = run_suite(
            tmp_path / "own.yaml",
            models=models,
            out=tmp_path / "out",
            jobs=2,
            make_runner=unused,
            strategies=["none"],
            fresh=True,
        )
        assert [(row["row"], row["n"], row["reused"]) for row in again.rows] == [("none", 3, 0)] * 2
        assert [len(read_jsonl(path)) for path in (tmp_path / "out").glob("items-*")] == [3, 3]

    def test_where_models_are_few_workers_share_the_tasks(self, tmp_path: Path) -> None:
        tasks = {
            "boxes": {**CONTENT["tasks"]["boxes"], "data": {**SCENES, "n": 3}},
            "position": {"task": "referring", "template": "{}", "data": {**SCENES, "kind": "position", "n": 2}},
        }
        tune = {"strategy": "falip", "grid": {"strength": [0.5, 2.0]}, "data": {"split": "validation", "n": 2}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({**CONTENT, "tune": [tune], "tasks": tasks}))

        def unused(*_: Any) -> Any:
            raise AssertionError("everything should be there already")

        options: dict[str, Any] = {"models": ["bundled:scenes-clip"], "jobs": 2, "make_runner": unused}
        for fresh in (False, True):
            result = run_suite(tmp_path / "own.yaml", out=tmp_path / "out", fresh=fresh, **options)
            assert [row["n"] for row in result.rows] == [3] * 3 + [2] * 3
            assert [row["reused"] for row in result.rows] == [0] * 6
            (record,) = result.files["tuning"]
            assert record["tasks"] == ["boxes", "position"]
            assert all(set(point["validation"]) == set(tasks) for point in record["points"])
            names = {path.name for path in (tmp_path / "out").glob("*.jsonl")}
            assert names == {
                "results.jsonl",
                "tuning.jsonl",
                *(f"items-{kind}{key}-bundled-scenes-clip.jsonl" for kind in ("", "tuning-") for key in tasks),
            }

    def test_a_worker_that_dies_costs_time_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({**CONTENT, "tune": [], "strategies": ["none"]}))
        models = ["bundled:scenes-clip", "bundled:scenes-clip-annotated"]
        result = run_suite(tmp_path / "own.yaml", models=models, out=tmp_path / "out", jobs=2, make_runner=Fake)
        assert [row["n"] for row in result.rows] == [12] * 4

    def test_jobs(self) -> None:
        assert automatic_jobs(["bundled:a"], "auto") == 1
        assert automatic_jobs(["bundled:a", "large/model"], "cpu") == 1
        assert automatic_jobs(["bundled:a", "bundled:b"], "cuda") == 1
        assert automatic_jobs(["bundled:a", "bundled:b"], "cpu") == min(2, cores())
        assert automatic_jobs(["bundled:a"], "cpu", units=2) == min(2, cores())
        assert automatic_jobs(["large/model"], "cpu", units=2) == 1

    def test_progress_adds_up(self, tmp_path: Path) -> None:
        class Counting(ProgressCallback):
            def __init__(self) -> None:
                self.total = self.seen = 0

            def planned(self, total: int) -> None:
                self.total = total

            def advanced(self, count: int) -> None:
                self.seen += count

        listener = Counting()
        bench(tmp_path, progress=listener)
        assert listener.seen == listener.total == 12 * 3 + 6 * 3

    def test_files_from_outside(self, tmp_path: Path) -> None:
        from visprompt.tasks.data_sources import scene_images

        lines = []
        for number, image in enumerate(scene_images(4)):
            image.image.save(tmp_path / f"p{number}.png")  # type: ignore[union-attr]
            boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in image.candidates_xyxy.tolist()]
            gold = image.expressions[0].gold_xyxy[0].tolist()
            index = image.candidates_xyxy.tolist().index(gold)
            anns = [{"id": i, "bbox": box} for i, box in enumerate(boxes)]
            said = [{"raw": image.expressions[0].text}, {"raw": "that one"}]
            lines.append(
                {
                    "file_name": f"p{number}_{index}.png",
                    "image_id": number,
                    "ann_id": index,
                    "sentences": said,
                    "anns": anns,
                }
            )
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        (tmp_path / "p3.png").unlink()
        content = {
            **CONTENT,
            "tune": [],
            "tasks": {"boxes": {"task": "referring", "data": {"source": "reclip", "file": "a.jsonl"}}},
        }
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        result = run_suite(
            tmp_path / "own.yaml",
            models=[FakeModel()],
            images=tmp_path,
            annotations=tmp_path,
            out=tmp_path / "out",
            make_runner=Fake,
        )
        falip = result.rows[1]
        assert (falip["n"], falip["errors"], falip["images"]) == (6, 2, 3)
        assert falip["ci_method"] == "bootstrap over images"
        assert any("p3.png" in problem for problem in result.problems)
