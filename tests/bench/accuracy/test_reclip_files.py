"""What a run over ReCLIP's files says about what was left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visprompt.bench.pipeline import run_suite
from visprompt.bench.suite import parse_suite


class FakeModel:
    name = "fake"
    supports = frozenset({"pixels", "attention", "text"})

    def __init__(self) -> None:
        self.calls: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class TestInASuite:
    """What a run over ReCLIP's files says about what was left out, and that its rows stay comparable."""

    def test_problem_lines_and_equal_item_sets(self, tmp_path: Path) -> None:
        lines = []
        for number in range(4):
            Image.new("RGB", (80, 60), "grey").save(tmp_path / f"{number}.png")
            anns = [{"id": 1, "bbox": [5, 5, 20, 20]}, {"id": 2, "bbox": [40, 5, 20, 20]}]
            lines.append(
                {
                    "file_name": f"{number}.png",
                    "image_id": number,
                    "ann_id": 1,
                    "sentences": [{"raw": "red"}],
                    "anns": anns,
                }
            )
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        boxes = {"0": [[5, 5, 20, 20], [0, 0, 0, 4]], "1": [[5, 5, 20, 20], [90, 5, 20, 20]], "2": [[5, 5, 20, 20]]}
        (tmp_path / "dets.json").write_text(json.dumps(boxes))
        data = {"source": "reclip", "file": "a.jsonl", "detections": "dets.json"}
        content = {"tasks": {"a": {"task": "referring", "data": data}}, "strategies": ["none", "circle", "random"]}

        class Flat:
            def __init__(self, *_: Any) -> None: ...

            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                return np.zeros((sum(len(one.units()) for one in requests), len(texts)))

        result = run_suite(
            parse_suite(content, "files"),
            models=[FakeModel()],
            images=tmp_path,
            annotations=tmp_path,
            out=tmp_path / "out",
            make_runner=Flat,
        )
        assert [row["n"] for row in result.rows] == [4, 4, 4]
        assert [row["unpointable"] for row in result.rows] == [0, 1, 0]
        said = "\n".join(result.problems)
        assert "dets.json: 1 candidate box has no area" in said
        assert "1 of 4 images have no detections" in said
        assert "fake, a: in 1 of 4 items a candidate lies outside" in said

    def test_a_row_without_a_finite_score_does_not_stop_the_others(self, tmp_path: Path) -> None:
        class HalfModel(FakeModel):
            dtype = "torch.float16"

        class Broken:
            def __init__(self, model: Any, prompter: Any, fit: str) -> None:
                self.value = 0.0 if prompter is None else np.nan

            def score(self, requests: Any, texts: Sequence[str]) -> np.ndarray:
                return np.full((sum(len(one.units()) for one in requests), len(texts)), self.value)

        data = {"source": "scenes", "n": 4}
        tune = {"strategy": "circle", "grid": {"width": [1, 2]}, "data": {"split": "validation"}}
        content = {
            "tasks": {"a": {"task": "referring", "data": data}},
            "strategies": ["circle", "none"],
            "tune": [tune],
        }
        result = run_suite(parse_suite(content, "nan"), models=[HalfModel()], out=tmp_path / "out", make_runner=Broken)
        assert [(row["value"] is None, row["n"], row["errors"]) for row in result.rows] == [(True, 0, 4), (False, 4, 0)]
        assert any("4 of 4 items could not be asked (circle)" in one and "float16" in one for one in result.problems)
        assert result.files["tuning"][0]["points"][0]["mean"] == 0.0
