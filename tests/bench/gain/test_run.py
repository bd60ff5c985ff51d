"""Suites that measure attention gain, on tiny models and a handful of images."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import visprompt as vp
from visprompt.bench.gain.document import HELD_OUT, document, ratio_tables, summary_table
from visprompt.bench.gain.spec import GainSuite
from visprompt.bench.kind import ProgressCallback
from visprompt.bench.pipeline import run_suite, stale
from visprompt.bench.report import markdown, terminal, write_report
from visprompt.bench.report.tables import number_interval
from visprompt.bench.suite import parse_suite
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError
from visprompt.plots import gain as plots_gain
from visprompt.tasks.gain import attention_gain, random_patch
from visprompt.testing import conformance_lvlm
from visprompt.testing.tiny import tiny
from visprompt.utils.jsonl import read_jsonl

N = 6


def content(patch: Path | str = "patch", **change: Any) -> dict[str, Any]:
    """A suite on generated scenes."""
    return {
        "kind": "gain",
        "title": "Gain",
        "models": ["bundled:scenes-clip"],
        "images": {"source": "scenes", "n": N, "seed": 3},
        "seed": 5,
        "markers": [
            {"label": "own", "strategy": "patch", "learn": {"max_steps": 1}},
            {"label": "other", "saved": str(patch)},
            {"label": "circle", "strategy": "circle", "options": {"width": 4}},
            {"label": "nothing", "strategy": "circle", "options": {"width": 0}},
        ],
        "controls": [{"label": "noise", "random": "other", "draws": 2}],
        "compare_with": "circle",
        "transfer": {"other": str(patch)},
        "examples": 2,
        **change,
    }


def parsed(**change: Any) -> GainSuite:
    """The suite, checked."""
    suite = parse_suite(content(**change), "gain-test")
    assert isinstance(suite, GainSuite)
    return suite


def small(**change: Any) -> GainSuite:
    """The suite with what needs no learning."""
    markers = [one for one in content()["markers"] if one["label"] in ("circle", "nothing")]
    return parsed(**{"markers": markers, "controls": [], "transfer": {}, **change})


def wrapped(kind: str, name: str) -> vp.Model:
    made = tiny(kind)
    return vp.wrap(made.module, made.processor, name=name)


@pytest.fixture(scope="module")
def model() -> vp.Model:
    return wrapped("transformers-clip", "tiny-clip")


@pytest.fixture(scope="module")
def patch(model: vp.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch that was never taught, made for another model, of another size than the default."""
    made: Any = vp.Prompter.from_name("patch", size=2.0, shape="full", place="rim")
    made.build(wrapped("timm-vit", "other"), seed=4)
    folder = tmp_path_factory.mktemp("saved") / "patch"
    made.save_pretrained(folder)
    return folder


class Counting(ProgressCallback):
    """Remembers what was planned and done."""

    def __init__(self) -> None:
        self.total, self.through, self.rows = 0, 0, 0

    def planned(self, total: int) -> None:
        self.total = total

    def advanced(self, count: int) -> None:
        self.through += count

    def finished(self, row: dict[str, Any]) -> None:
        self.rows += 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images to learn from."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for number in range(4):
        Image.fromarray(generator.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(model: vp.Model, patch: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A suite with everything in it but the sweep, run once on an encoder and on a language model."""
    _, lvlm = conformance_lvlm.wrapped("llava")
    out = tmp_path_factory.mktemp("out")
    markers = content(patch)["markers"]
    markers[0]["learn"] = {"max_steps": 1, "data": str(photos)}
    return run_suite(parsed(patch=patch, markers=markers), models=[model, lvlm], out=out, examples=True)


def rows_of(result: Any, part: str = "gain") -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["model"], row["row"]): row for row in result.rows if row["task"] == part}


class TestFigures:
    def test_a_row_is_what_the_marker_gives_alone(self, finished: Any, model: vp.Model) -> None:
        from visprompt.data.scenes.unlabelled import generated

        data = generated((64, 64), seed=3, sizes={"train": 1, "validation": 0, "test": N}).test
        assert data is not None
        images = [data.image(number) for number in range(N)]
        row = rows_of(finished)["tiny-clip", "circle"]
        circle = vp.Prompter.from_name("circle", width=4)
        alone = attention_gain(model, circle, images, size_tokens=row["size_tokens"], seed=5)
        assert row["n"] == N
        assert [one["block"] for one in row["blocks"]] == [0, 1, 2, 3]
        for told, found in zip(row["blocks"], alone.blocks, strict=True):
            assert told["gain"] == pytest.approx(found.gain, abs=1e-4)
            assert (told["low"], told["high"]) == (
                pytest.approx(found.low, abs=1e-3),
                pytest.approx(found.high, abs=1e-3),
            )
        assert row["value"] == row["blocks"][-1]["gain"]
        assert row["low"] <= row["value"] <= row["high"]

    def test_gain_and_ratio_follow_from_the_masses_that_are_kept(self, finished: Any) -> None:
        kept = {}
        for file in finished.out.glob("runs-*.jsonl"):
            for run in read_jsonl(file):
                kept[run["model"], run["marker"], run["size_tokens"]] = np.array(run["masses"])[:, -1].mean()
        for (name, marker), row in rows_of(finished).items():
            plain = kept[name, "no marker", row["size_tokens"]]
            own = kept[name, marker, row["size_tokens"]] / plain - 1
            circle = kept[name, "circle", row["size_tokens"]] / plain - 1
            assert row["value"] == pytest.approx(own)
            if marker == "circle":
                assert row["compared_with"] is None
                continue
            assert row["difference"] == pytest.approx(own - circle)
            assert row["ratio"] == (pytest.approx(own / circle) if circle > 0 else None)

    def test_what_makes_nothing_gains_nothing(self, finished: Any) -> None:
        for name in ("tiny-clip", "llava"):
            row = next(row for (model, label), row in rows_of(finished).items() if label == "nothing" and name in model)
            assert row["value"] == pytest.approx(0.0, abs=1e-6)
            assert [row["low"], row["high"]] == [pytest.approx(0.0, abs=1e-6)] * 2

    def test_a_patch_is_measured_on_a_square_of_its_size_at_its_middle(self, finished: Any, model: vp.Model) -> None:
        """The saved one goes along rims and is smaller: here it lies on the square, and the circle is as small."""
        rows = rows_of(finished)
        assert rows["tiny-clip", "own"]["size_tokens"] == rows["tiny-clip", "circle"]["size_tokens"] == 3.0
        assert rows["tiny-clip", "other"]["size_tokens"] == rows["tiny-clip", "noise"]["size_tokens"] == 2.0
        assert rows["tiny-clip", "other"]["identity"][0]["options"]["place"] == "centre"

    def test_only_a_patch_of_this_model_is_its_own(self, finished: Any) -> None:
        rows = rows_of(finished)
        assert rows["tiny-clip", "own"]["own"] is True
        assert rows["tiny-clip", "other"]["own"] is False
        assert rows["tiny-clip", "circle"]["own"] is None
        moved = rows_of(finished, "transfer")
        assert {key[1] for key in moved} == {"other"}
        assert moved["tiny-clip", "other"]["value"] == rows["tiny-clip", "other"]["value"]

    def test_the_control_has_random_colours_in_turn(self, finished: Any, model: vp.Model, patch: Path) -> None:
        from visprompt.bench.gain.markers import centred, load_images

        images = load_images({"source": "scenes", "n": N, "seed": 3, "size_wh": [64, 64]}, N)
        saved: Any = centred(vp.Prompter.from_pretrained(patch), {})
        means = []
        for draw in range(2):
            found = attention_gain(model, random_patch(saved, draw), list(images), size_tokens=2.0, seed=5)
            means.append(found.masses[draw::2, -1])
        row = rows_of(finished)["tiny-clip", "noise"]
        assert row["control"]
        assert row["blocks"][-1]["mass"] == pytest.approx(np.concatenate(means).mean(), abs=1e-5)

    def test_the_learned_one_is_kept_and_is_the_one_that_was_measured(self, finished: Any, model: vp.Model) -> None:
        row = rows_of(finished)["tiny-clip", "own"]
        folders = sorted((finished.out / "patches").iterdir())
        assert len(folders) == 2  # one for each model
        kept = [vp.Prompter.from_pretrained(folder).describe() for folder in folders]
        assert row["identity"][0]["learned"] in [one["learned"] for one in kept]

    def test_rows_say_what_they_depend_on(self, finished: Any) -> None:
        for line in (finished.out / "results.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for key in ("code", "versions", "git_commit", "machine", "date"):
                assert key in row["provenance"], key
            for key in ("images", "seed", "model_identity", "identity", "suite_hash"):
                assert key in row, key
            assert (row["kind"], row["metric"]) == ("gain", "attention_gain")
            assert row["images"]["seed"] == 3
        assert not finished.problems


class TestRunning:
    def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(self, model: vp.Model, tmp_path: Path) -> None:
        class Killed(Counting):
            """Dies when the second marker begins."""

            def starts(self, title: str) -> None:
                if title.endswith("nothing"):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_suite(small(), models=[model], out=tmp_path, progress=Killed())
        (file,) = tmp_path.glob("runs-*.jsonl")
        assert len(read_jsonl(file)) == 2  # circle and no marker
        with open(file, "a", encoding="utf-8") as stream:
            stream.write('{"cut off')
        first = run_suite(small(), models=[model], out=tmp_path)
        assert len(read_jsonl(file)) == 3
        forwards: list[int] = []
        hook = model.module.vision_model.register_forward_hook(lambda *_: forwards.append(1))
        try:
            listener = Counting()
            again = run_suite(small(), models=[model], out=tmp_path, progress=listener)
        finally:
            hook.remove()
        assert not forwards
        assert json.dumps(again.rows) == json.dumps(first.rows)
        assert 0 < listener.through <= listener.total

    def test_masses_are_not_taken_for_other_images_places_or_options(self, model: vp.Model, tmp_path: Path) -> None:
        run_suite(small(), models=[model], out=tmp_path)
        (file,) = tmp_path.glob("runs-*.jsonl")
        before = len(read_jsonl(file))
        changes: list[dict[str, Any]] = [
            {"seed": 6},
            {"images": {"source": "scenes", "n": N, "seed": 4}},
            {"size_tokens": 2.0},
            {"blocks": [0]},
            {"fit": "pad"},
        ]
        for number, change in enumerate(changes, 1):
            run_suite(small(**change), models=[model], out=tmp_path)
            assert len(read_jsonl(file)) == before * (number + 1), change
        run_suite(small(), models=[model], out=tmp_path, limit=4)
        assert len(read_jsonl(file)) == before * (len(changes) + 2)
        run_suite(small(), models=[model], out=tmp_path, fresh=True)
        assert len(read_jsonl(file)) == before

    def test_markers_by_name_leave_the_others_in_the_table(self, model: vp.Model, tmp_path: Path) -> None:
        suite = small(compare_with="circle")
        with pytest.raises(UnknownNameError, match="did you mean 'circle'"):
            run_suite(suite, models=[model], out=tmp_path, strategies=["cirle"])
        run_suite(suite, models=[model], out=tmp_path, strategies=["circle"])
        result = run_suite(suite, models=[model], out=tmp_path, strategies=["nothing"])
        assert [row["row"] for row in result.rows] == ["circle", "nothing"]
        assert result.rows[1]["difference"] is not None
        told = run_suite(suite, models=[model], out=tmp_path, strategies=["nothing"], limit=3)
        assert any("circle on tiny-clip" in problem for problem in told.problems)
        assert not stale(result.rows, result.rows, ("suite_hash", "limit", "images"))

    def test_a_model_without_attention_is_left_out(self, model: vp.Model, tmp_path: Path) -> None:
        resnet = wrapped("open-clip-resnet", "resnet")
        result = run_suite(small(), models=[resnet, model], out=tmp_path)
        assert {row["model"] for row in result.rows} == {"tiny-clip"}
        assert any("resnet" in problem and "attention" in problem for problem in result.problems)
        with pytest.raises(UnsupportedError, match="attention"):
            run_suite(small(), models=[resnet], out=tmp_path / "alone")

    def test_a_marker_that_cannot_be_used_is_left_out_with_its_reason(self, model: vp.Model, tmp_path: Path) -> None:
        markers = [{"label": "own", "strategy": "patch"}, {"label": "far", "saved": "no-such-folder"}, "circle"]
        controls = [{"label": "noise", "random": "circle"}]
        suite = parsed(markers=markers, controls=controls, transfer={})
        result = run_suite(suite, models=[model], out=tmp_path)
        assert [row["row"] for row in result.rows] == ["circle"]
        told = "\n".join(result.problems)
        assert "learn: {}" in told
        assert "no-such-folder" in told
        assert "'circle' is no learned patch" in told

    def test_a_folder_of_images(self, model: vp.Model, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for part, count in (("train", 3), ("test", 4)):
            (tmp_path / "photos" / part).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (70 + 9 * number, 90, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / f"{number}.png")
        out = tmp_path / "out"
        result = run_suite(small(), models=[model], images=tmp_path / "photos", out=out)
        assert {row["n"] for row in result.rows} == {4}  # its part test
        images = [tmp_path / "photos" / "test" / f"{number}.png" for number in range(4)]
        alone = attention_gain(model, vp.Prompter.from_name("circle", width=4), images, seed=5)
        assert result.rows[0]["value"] == pytest.approx(alone.blocks[-1].gain, abs=1e-5)
        (file,) = out.glob("runs-*.jsonl")
        before = len(read_jsonl(file))
        Image.new("RGB", (80, 80)).save(images[0])
        changed = run_suite(small(), models=[model], images=tmp_path / "photos", out=out)
        assert len(read_jsonl(file)) == 2 * before
        assert changed.rows[0]["value"] != result.rows[0]["value"]

    def test_a_image_that_cannot_be_read_ends_the_run(self, model: vp.Model, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
        (tmp_path / "photos" / "b.png").write_text("no image", encoding="utf-8")
        with pytest.raises(InvalidInputError, match=r"b\.png"):
            run_suite(small(), models=[model], images=tmp_path / "photos", out=tmp_path / "out")
        assert not (tmp_path / "out" / "results.jsonl").exists()

    def test_what_a_patch_is_learned_on_is_not_measured_on(self, model: vp.Model, tmp_path: Path) -> None:
        (tmp_path / "photos" / "more").mkdir(parents=True)
        learn = [{"strategy": "patch", "learn": {"data": str(tmp_path / "photos")}}]
        change: dict[str, Any] = {"markers": learn, "controls": [], "compare_with": None, "transfer": {}}
        for folder in ("photos", "photos/more"):
            with pytest.raises(InvalidInputError, match="of their own to measure on"):
                parsed(**change, images={"source": "folder", "folder": str(tmp_path / folder)})
        with pytest.raises(InvalidInputError, match="of their own to measure on"):
            run_suite(parsed(**change), models=[model], images=tmp_path / "photos", out=tmp_path / "out")
        (tmp_path / "photos" / "test").mkdir()
        parsed(**change, images={"source": "folder", "folder": str(tmp_path / "photos")})

    def test_a_model_that_reads_through_a_probe_is_looked_at_in_every_block(self, tmp_path: Path) -> None:
        siglip = wrapped("open-clip-siglip", "siglip")
        result = run_suite(small(), models=[siglip], out=tmp_path, examples=True)
        assert [one["block"] for one in result.rows[0]["blocks"]] == list(range(siglip.num_blocks))
        written = write_report(document(result), result.out)
        assert {"gain-blocks.png"} <= {path.name for path in written}

    def test_one_block_alone_can_be_drawn(self, model: vp.Model, tmp_path: Path) -> None:
        result = run_suite(small(blocks=[-1]), models=[model], out=tmp_path)
        assert [len(row["blocks"]) for row in result.rows] == [1, 1]
        figure = plots_gain.gain_figure(result.rows)
        assert len(figure.axes[0].containers) == 2  # whiskers instead of bands


class TestReports:
    def test_table_and_terminal(self, finished: Any) -> None:
        from rich.console import Console

        found = summary_table(finished.rows)
        labels = ["own", "other", "circle", "nothing", "noise", "mass without a marker"]
        assert [row.label for row in found.rows] == labels
        assert [row.control for row in found.rows] == [False] * 4 + [True] * 2
        row = rows_of(finished)["tiny-clip", "circle"]
        assert found.rows[2].cells[0].text == f"{row['value']:.2f}"
        console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(terminal(document(finished)))
        text = " ".join(console.export_text().split())
        for words in ("tiny-clip", "From model to model", "n = 6 images", "÷ gain of circle", f"{row['value']:.2f}"):
            assert words in text

    def test_pages_and_images(self, finished: Any) -> None:
        report = document(finished)
        written = {path.name for path in write_report(report, finished.out)}
        assert written == {"report.html", "report.md", "gain-blocks.png", "gain-transfer.png"}
        page = (finished.out / "report.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") == 2 + 2 + 2  # figures, patches, images with markers
        assert "<script" not in page
        assert "http" not in re.sub(r"base64,[^\"]+", "", page)
        assert "seeds of their own" in page
        told = markdown(report)
        for words in (
            "| marker | tiny-clip (block 3, ",
            "## From model to model",
            "### tiny-clip",
            "*noise*",
            HELD_OUT,
        ):
            assert words in told
        for _, row in rows_of(finished).items():
            assert f"{row['value']:.2f}" in told

    def test_nothing_is_claimed_of_somebody_s_own_images(self, finished: Any) -> None:
        suite = dataclasses.replace(
            finished.suite, images={"source": "folder", "folder": "far/away/photos", "n": 4, "seed": 0}
        )
        told = markdown(document(dataclasses.replace(finished, suite=suite)))
        assert HELD_OUT not in told
        assert "folder photos;" in told
        assert "far" not in told.split("## ")[0]

    def test_a_ratio_to_what_gains_nothing_is_said_in_words(self, finished: Any) -> None:
        rows = [dict(row) for row in finished.rows if row["task"] == "gain" and row["model"] == "tiny-clip"]
        rows[0] |= {"ratio": None, "ratio_ci95": [None, None]}
        rows[1] |= {"ratio": 3.0, "ratio_ci95": [1.25, None]}
        (table,) = ratio_tables(rows)
        cells = {row.label: row.cells[0] for row in table.rows}
        assert (cells["own"].text, cells["own"].interval) == ("no ratio", "")
        assert (cells["other"].text, cells["other"].interval) == ("3.00 ×", "above 1.25")
        assert "circle" not in cells
        assert number_interval(None, None, 6) == "unbounded"

    def test_lines_can_be_told_apart_without_colour(self, finished: Any) -> None:
        gains = [row for row in finished.rows if row["task"] == "gain"]
        figure = plots_gain.gain_figure(gains)
        first = figure.axes[0]
        lines = {str(line.get_label()): line for line in first.get_lines() if not str(line.get_label()).startswith("_")}
        assert set(lines) == {"own", "other", "circle", "nothing", "noise"}
        looks = [(line.get_linestyle(), line.get_marker()) for line in lines.values()]
        assert len(set(looks)) == len(looks)
        colour = str(lines["noise"].get_color())
        assert re.fullmatch(r"#(..)\1\1", colour), "controls are grey"
        assert lines["own"].get_linewidth() > lines["circle"].get_linewidth()
        row = rows_of(finished)["tiny-clip", "circle"]
        np.testing.assert_allclose(lines["circle"].get_ydata(), [one["gain"] for one in row["blocks"]])
        assert len(first.collections) == 5  # a band for every line

    def test_the_heat_map_frames_a_models_own_patch(self, finished: Any) -> None:
        gains = [row for row in finished.rows if row["task"] == "gain"]
        moved = [{**row, "own": row["model"] == "tiny-clip"} for row in finished.rows if row["task"] == "transfer"]
        figure = plots_gain.transfer_figure(moved, "circle", gains)
        assert figure is not None
        (axes,) = figure.axes
        assert len(axes.patches) == 1
        assert [text.get_text() for text in axes.get_yticklabels()] == ["patch of other", "circle"]
        assert f"{rows_of(finished)['tiny-clip', 'circle']['value']:+.2f}".replace("-", "−") in {
            text.get_text() for text in axes.texts
        }
        assert plots_gain.transfer_figure([], "circle") is None


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    markers = [{"label": "patch", "strategy": "patch", "learn": {"max_steps": 1}}, "circle"]
    made = content(
        models=["bundled:scenes-clip", "bundled:scenes-mae"], markers=markers, controls=[], transfer={},
        images={"source": "scenes", "n": 4, "seed": 1},
    )  # fmt: skip
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(made), encoding="utf-8")
    listener = Counting()
    several = run_suite(file, out=tmp_path / "several", jobs=2, progress=listener)
    one = run_suite(file, out=tmp_path / "one")
    assert listener.through == listener.total
    assert len(several.rows) == 4
    assert listener.rows == 6  # without a marker, with the patch, with the circle; on two models
    for a, b in zip(several.rows, one.rows, strict=True):
        assert [a[key] for key in ("model", "row", "value", "ratio")] == [
            b[key] for key in ("model", "row", "value", "ratio")
        ]


def test_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from visprompt.cli.app import app

    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(content(markers=["circle", "box"], controls=[], transfer={})), encoding="utf-8")
    words = ["bench", str(file), "--out", str(tmp_path / "out"), "--jobs", "1", "--limit", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "box" in result.output
    assert (tmp_path / "out" / "report.html").exists()
    told = CliRunner().invoke(app, [*words, "--json", "-s", "circle"])
    assert told.exit_code == 0, told.output
    rows = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    assert {row["row"] for row in rows} == {"circle", "box"}
    assert all(row["n"] == 3 for row in rows)
    wrong = CliRunner().invoke(app, [*words, "-s", "cirle"])
    assert wrong.exit_code != 0
