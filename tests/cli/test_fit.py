"""fit, predict and inspect as people use them: a folder of images, a bundled model, a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import invoke, run
from PIL import Image
from typer.testing import CliRunner

from visprompt.cli import app as cli
from visprompt.cli.arguments import grid_of, is_first_process
from visprompt.cli.fit_tables import sweep_table
from visprompt.cli.flags import settings_of
from visprompt.errors import InvalidInputError, VispromptError

RUNNER = CliRunner()
MODEL = "bundled:scenes-clip"
QUICK = ("--epochs", "2", "--batch-size", "4", "-o", "prompts=3", "--set", "warmup_epochs=0", "--quiet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue images, six of each to train on, two to test."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name, colour in (("blue", (30, 40, 220)), ("red", (220, 40, 30))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + random.normal(0, 25, (64, 64, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "colours"
    run("fit", "gated", "-m", MODEL, "--data", data, "--out", out, *QUICK)
    return out


class TestFit:
    def test_writes_a_prompt_with_its_card(self, fitted: Path) -> None:
        names = {path.name for path in fitted.iterdir()}
        assert {"config.json", "prompt.safetensors", "README.md", "metrics.jsonl", "run.json"} <= names
        assert "library_name: visprompt" in (fitted / "README.md").read_text("utf-8")
        assert len((fitted / "metrics.jsonl").read_text().splitlines()) == 2

    def test_the_same_command_again_gives_the_same(self, fitted: Path, data: Path) -> None:
        found = run("fit", "gated", "-m", MODEL, "--data", data, "--out", fitted, *QUICK, "--json")
        content = json.loads(found.stdout)
        assert "had ended before" in found.stderr
        figure = next(one for one in content["figures"] if one["split"] == "test" and one["chosen"])
        assert (figure["metric"], figure["n"]) == ("accuracy", 4)
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
        assert content["parameters"]["prompt"] > 0
        assert content["epochs"] == 2

    def test_a_table_and_what_to_do_next(self, fitted: Path, data: Path) -> None:
        found = run("fit", "gated", "-m", MODEL, "--data", data, "--out", fitted, *QUICK)
        for wanted in ("accuracy", "validation", "test", "95 %", "% of the backbone"):
            assert wanted in found.stdout
        assert f"visprompt inspect {fitted}" in found.stderr
        assert f"visprompt predict {fitted}" in found.stderr

    def test_another_run_is_not_written_over(self, fitted: Path, data: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"epochs was 2 and is 3.*--restart"):
            invoke("fit", "gated", "-m", MODEL, "--data", data, "--out", fitted, *QUICK, "--epochs", "3")

    def test_goes_on_after_a_stop(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from visprompt.training.loop import _Run

        words = ("fit", "gated", "-m", MODEL, "--data", data, "--out", tmp_path / "run", *QUICK)
        end_epoch = _Run._end_epoch

        def stop(self: _Run, epoch: int, *rest: object) -> None:
            if epoch == 2:
                raise KeyboardInterrupt
            end_epoch(self, epoch, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(_Run, "_end_epoch", stop)
        stopped = RUNNER.invoke(cli.app, [str(word) for word in words])
        assert stopped.exit_code != 0
        assert "the same command goes on" in stopped.stderr
        monkeypatch.setattr(_Run, "_end_epoch", end_epoch)
        found = run(*words)
        assert "going on from step" in found.stderr
        assert (tmp_path / "run" / "config.json").exists()

    def test_a_sweep_keeps_the_best(self, data: Path, tmp_path: Path) -> None:
        words = ("fit", "vpt", "-m", MODEL, "--data", data, "--out", tmp_path / "sweep", *QUICK, "--epochs", "1")
        found = run(*words, "--sweep", "lr=0.01,0.1", "--sweep", "prompts=1,2", "--json")
        tried = json.loads(found.stdout)["sweep"]
        assert {(row["lr"], row["prompts"]) for row in tried} == {(0.01, 1), (0.01, 2), (0.1, 1), (0.1, 2)}
        assert tried[0]["accuracy"] == max(row["accuracy"] for row in tried)
        run("inspect", tmp_path / "sweep")
        assert (tmp_path / "sweep" / "inspect" / "training.png").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("falip",), r"nothing to learn\. Strategies that learn: gated, patch, vpt"),
            (("none",), "nothing to learn"),
            (("gated+circle",), "join it with others when it is used"),
            (("gatd",), "did you mean 'gated'"),
            (("gated", "-o", "promts=1"), "did you mean 'prompts'"),
            (("gated", "--set", "momentun=1"), "did you mean 'momentum'"),
            (("gated", "--optimizer", "adam"), "sgd, adamw"),
            (("gated", "--lr", "1", "--base-lr", "1"), "two ways"),
            (("gated", "--lr", "1", "--set", "lr=2"), "given twice"),
            (("gated", "--sweep", "lr"), "name=value,value"),
            (("gated", "--sweep", "epoch=1,2"), "did you mean 'epochs'"),
            (("gated", "--sweep", "epochs=1,0"), "at least 1"),
            (("gated", "--sweep", "prompts=1,-1"), "number of tokens"),
            (("gated", "--on-bad", "ignore"), "refuse, skip"),
            (("gated", "--format", "foldr"), "did you mean 'folder'"),
            (("gated", "--data", "nowhere"), "nowhere"),
            (("gated", "--set", "epochs"), "key=value"),
        ],
    )
    def test_mistakes_are_told_before_a_model_is_loaded(
        self, words: tuple[str, ...], message: str, data: Path, tmp_path: Path
    ) -> None:
        where = () if "--data" in words else ("--data", data)
        with pytest.raises(VispromptError, match=message):
            invoke("fit", *words, "-m", "there/is-no-such-model", *where, "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_the_run_does_not_go_among_the_images(self, data: Path) -> None:
        before = sorted(data.iterdir())
        with pytest.raises(InvalidInputError, match="is the folder of the data"):
            invoke("fit", "gated", "-m", "there/is-no-such-model", "--data", data, "--out", f"{data}/../{data.name}")
        assert sorted(data.iterdir()) == before

    def test_a_model_that_takes_no_tokens_says_why(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(VispromptError):
            invoke("fit", "gated", "-m", "bundled:scenes-llava", "--data", data, "--out", tmp_path / "run", *QUICK)

    def test_bad_images(self, data: Path, tmp_path: Path) -> None:
        import shutil

        copy = tmp_path / "data"
        shutil.copytree(data, copy)
        (copy / "test" / "red" / "0.png").write_bytes(b"no image")
        words = ("fit", "gated", "-m", MODEL, "--data", copy, "--out", tmp_path / "run", *QUICK, "--check")
        with pytest.raises(InvalidInputError, match=r"red/0\.png"):
            invoke(*words)
        with pytest.warns(UserWarning, match=r"red/0\.png"):
            found = run(*words, "--on-bad", "skip", "--json")
        assert {one["n"] for one in json.loads(found.stdout)["figures"] if one["split"] == "test"} == {3}


class TestArguments:
    def test_grid(self) -> None:
        assert grid_of(["lr=0.1,1e-3", "augment=none,crop", "first_block=0,-1"]) == {
            "lr": [0.1, 0.001],
            "augment": ["none", "crop"],
            "first_block": [0, -1],
        }
        with pytest.raises(InvalidInputError, match="given twice"):
            grid_of(["lr=1", "lr=2"])

    def test_settings(self) -> None:
        assert settings_of({"epochs": None, "lr": 1.0}, ["templates=['a {}', 'the {}']"]) == {
            "lr": 1.0,
            "templates": ("a {}", "the {}"),
        }

    def test_the_first_process_speaks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RANK", raising=False)
        assert is_first_process()
        monkeypatch.setenv("RANK", "0")
        assert is_first_process()
        monkeypatch.setenv("RANK", "1")
        assert not is_first_process()

    @pytest.mark.parametrize("command", ["fit", "predict", "inspect"])
    def test_every_command_has_an_example(self, command: str) -> None:
        assert f"Example: visprompt {command}" in " ".join(run(command, "--help").stdout.split())


class TestPredict:
    def test_images_and_folders(self, fitted: Path, data: Path) -> None:
        rows = json.loads(run("predict", fitted, data / "test", "--json").stdout)
        assert [Path(row["image"]).parent.name for row in rows] == ["blue", "blue", "red", "red"]
        assert all(row["label"] in ("blue", "red") and len(row["top"]) == 2 for row in rows)
        assert sum(rows[0]["top"].values()) == pytest.approx(1, abs=1e-4)
        line = run("predict", fitted, data / "test" / "red" / "0.png", "--top", "1").stdout
        assert line.startswith(f"{data}/test/red/0.png: ")
        assert line.count("%") == 1

    def test_rows_are_appended_and_reused(
        self, fitted: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from visprompt.runner.runner import Runner

        out = tmp_path / "labels.jsonl"
        run("predict", fitted, data / "test" / "red", "--out", out)
        seen: list[int] = []
        plain = Runner.predict
        monkeypatch.setattr(Runner, "predict", lambda self, items: (seen.append(len(items)), plain(self, items))[1])
        found = run("predict", fitted, data / "test", "--out", out, "--json")
        assert seen == [2]
        assert "4 predictions, 2 of them from before" in found.stderr
        assert len(out.read_text().splitlines()) == 4
        assert [Path(row["image"]).parent.name for row in json.loads(found.stdout)] == ["blue", "blue", "red", "red"]

    def test_bad_images_are_left_out(self, fitted: Path, data: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.warns(UserWarning, match="1 of 2 images left out"):
            run("predict", fitted, tmp_path / "bad.png", data / "test" / "red" / "0.png")
        with (
            pytest.warns(UserWarning, match="1 of 1 images"),
            pytest.raises(InvalidInputError, match="none of the images"),
        ):
            invoke("predict", fitted, tmp_path / "bad.png")

    def test_mistakes(self, fitted: Path, data: Path, tmp_path: Path) -> None:
        image = data / "test" / "red" / "0.png"
        for words, message in (
            ((tmp_path, image), "not a saved strategy"),
            ((tmp_path / "nowhere", image), "there is no folder"),
            ((fitted.parent / "colors", image), "Did you mean .*colours"),
            ((fitted, tmp_path / "none.png"), "no such image"),
            ((fitted, tmp_path), "no images"),
            ((fitted, image, "--out", tmp_path / "out.csv"), "jsonl"),
            ((fitted, image, "-m", "bundled:scenes-clip-annotated"), "another model"),
        ):
            with pytest.raises(VispromptError, match=message):
                invoke("predict", *words)

    def test_class_maps(self, tmp_path: Path) -> None:
        words = ("fit", "vpt", "-m", MODEL, "--data", "scenes:segment", "--limit", "4", "--out", tmp_path / "run")
        run(*words, *QUICK, "--max-steps", "1")
        Image.new("RGB", (50, 40), "green").save(tmp_path / "wide.png")
        found = run("predict", tmp_path / "run", tmp_path / "wide.png", "--out", tmp_path / "masks", "--json")
        assert json.loads(found.stdout)[0]["mask"] == "wide.png"
        mask = Image.open(tmp_path / "masks" / "wide.png")
        assert (mask.size, mask.mode) == ((50, 40), "P")
        assert json.loads((tmp_path / "masks" / "classes.json").read_text())["0"]["name"] == "background"
        assert Image.open(tmp_path / "masks" / "wide-look.png").width > 900


class TestInspect:
    def test_numbers_and_figures(self, fitted: Path, tmp_path: Path) -> None:
        found = run("inspect", fitted, "--out", tmp_path)
        assert "share r" in found.stdout
        assert "temperature" in found.stdout
        assert "% of the backbone" in found.stdout
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"blocks.png", "tokens.png", "training.png", "attention-scene-1.png", "attention-scene-2.png"}
        for name in names:
            with Image.open(tmp_path / name) as image:
                assert image.width > 900

    def test_json(self, fitted: Path, tmp_path: Path) -> None:
        image = tmp_path / "wide.png"
        Image.new("RGB", (80, 50), "red").save(image)
        content = json.loads(run("inspect", fitted, "--image", image, "--block", "-1", "--json").stdout)
        assert str(fitted / "inspect" / "attention-wide.png") in content["figures_written"]
        assert [row["block"] for row in content["blocks"]] == [-1, 0, 1, 2, 3, 4, 5]
        assert sum(row["selection"] or 0 for row in content["blocks"]) == pytest.approx(1)
        assert content["data"]["train"]["n"] == 10

    def test_nothing_to_look_into(self, tmp_path: Path) -> None:
        import visprompt as vp

        vp.Prompter.from_name("falip").save_pretrained(tmp_path)
        with pytest.raises(InvalidInputError, match="has learned nothing"):
            invoke("inspect", tmp_path)

    def test_a_model_that_is_gone(self, fitted: Path, tmp_path: Path, data: Path) -> None:
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(fitted, copy)
        content = json.loads((copy / "config.json").read_text("utf-8"))
        content["parts"][0]["backbone"]["name"] = str(tmp_path / "gone")
        (copy / "config.json").write_text(json.dumps(content))
        found = run("inspect", copy)
        assert "no attention maps: give images" in found.stderr
        image = data / "test" / "red" / "0.png"
        with pytest.raises(InvalidInputError, match="--model"):
            invoke("inspect", copy, "--image", image)
        run("inspect", copy, "--image", image, "-m", MODEL)


class TestSavedStrategies:
    def test_go_where_a_name_goes(self, fitted: Path, data: Path, tmp_path: Path) -> None:
        image = data / "test" / "red" / "0.png"
        run("show", image, "-p", fitted, "--out", tmp_path / "a.png")
        run("show", image, "-p", f"{fitted}+falip", "-r", "8,8,40,40", "--out", tmp_path / "b.png")
        plain, with_it = (
            json.loads(run("score", image, "a red circle", "a blue star", *more, "--json").stdout)[0]["scores"]
            for more in ((), ("-p", fitted))
        )
        assert plain != with_it
        with pytest.raises(InvalidInputError, match="cannot be chosen anew"):
            invoke("score", image, "a", "-p", fitted, "-o", "prompts=2")


@pytest.fixture
def alone() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}


def test_two_processes_speak_once(data: Path, tmp_path: Path, alone: dict[str, str]) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
             "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "visprompt", "fit", "gated", "-m", MODEL,
             "--data", str(data), "--out", str(tmp_path / "run"), "--epochs", "1", "--batch-size", "2",
             "-o", "prompts=2"]  # fmt: skip
    found = subprocess.run(words, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.count("% of the backbone") == 1
    assert found.stderr.count("epoch 1/1") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["processes"] == 2


def test_a_sweeps_figures_are_written_as_all_figures_are() -> None:
    table = sweep_table([{"lr": 0.00625, "prompts": 4, "accuracy": 0.8333, "loss": 0.66651}, {"lr": None}])
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["0.00625", "–"], ["4", "–"], ["83.3 %", "–"], ["0.6665", "–"]]
