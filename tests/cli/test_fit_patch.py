"""A patch from the command line: images without labels in, a marker that people can look at out."""

import csv
import json
import shutil
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import run
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from visprompt.cli import app as cli
from visprompt.cli.fit_tables import figures_table, sweep_table
from visprompt.cli.gain_table import Opened
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.data.scenes.world import scenes
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError
from visprompt.persistence.model_card import Metric

RUNNER = CliRunner()
MODEL = "bundled:scenes-clip"
QUICK = ("--max-steps", "4", "--set", "checkpoint_every=2", "--quiet")


def fit(data: Path | str | None, out: Path, *more: object) -> Result:
    return run("fit", "patch", "-m", MODEL, *(() if data is None else ("--data", data)), "--out", out, *QUICK, *more)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of all sorts in nested folders."""
    root = tmp_path_factory.mktemp("photos")
    (root / "holiday" / "beach").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x112] = 6
    for number, scene in enumerate(scenes(20, seed=606)):
        folder = (root, root / "holiday", root / "holiday" / "beach")[number % 3]
        image = scene.pil
        if number == 1:
            image.convert("L").save(folder / "grey.jpg")
        elif number == 2:
            image.convert("CMYK").save(folder / "print.jpg")
        elif number == 3:
            image.convert("RGBA").save(folder / "clear.png")
        elif number == 4:
            image.resize((160, 90)).save(folder / "turned.jpg", exif=turned)
        elif number == 5:
            image.resize((300, 48)).save(folder / "wide.webp")
        else:
            image.save(folder / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def fitted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "patch"
    fit(photos, out)
    return out


class TestFit:
    def test_says_what_it_learns_from_and_where_to_watch(self, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        words = ("fit", "patch", "-m", MODEL, "--data", photos, "--out", out, "--max-steps", "4", "--no-compare")
        found = run(*words)
        assert "learning from 16 images without labels, 4 for validation. All images below" in found.stderr
        assert f"to watch it: {out}/patch-progress.png" in found.stderr
        assert all(wanted in found.stderr for wanted in ("loss", "mass", "validation gain"))
        assert "class" not in found.stdout + found.stderr

    def test_writes_images_and_a_card(self, fitted: Path) -> None:
        assert {path.name for path in fitted.iterdir()} == {
            "README.md", "config.json", "metrics.jsonl", "patch-progress.png", "patch.png", "prompt.safetensors",
            "run.json",
        }  # fmt: skip
        assert Image.open(fitted / "patch.png").size == (24, 24)
        # steps 0, 2 and 4 and the one that was kept, each five times as large
        assert Image.open(fitted / "patch-progress.png").size[0] > 4 * 120
        card = (fitted / "README.md").read_text("utf-8")
        for wanted in ("Learned from 16 images without labels", "| red circle |", "| random colours |", "patch.png"):
            assert wanted in card
        assert "classification" not in card

    def test_ends_with_gains_beside_controls_and_what_to_do(self, fitted: Path, photos: Path) -> None:
        found = fit(photos, fitted)
        assert "this run had ended before" in found.stderr
        for wanted in ("attention gain as it is used, n = 4", "learned patch", "red circle", "random colours", "95 %",
                       "mass without", "4 validation"):  # fmt: skip
            assert wanted in found.stdout
        assert "image gain" not in found.stdout
        assert "patch.png, patch-progress.png)" in found.stderr
        assert f"visprompt inspect {fitted}" in found.stderr
        assert f"visprompt show photo.jpg -r 40,30,200,180 -m {MODEL} -p {fitted}" in found.stderr

    def test_json(self, fitted: Path, photos: Path) -> None:
        content = json.loads(fit(photos, fitted, "--json").stdout)
        chosen = next(one for one in content["figures"] if one["chosen"])
        assert (chosen["metric"], chosen["n"], chosen["split"]) == ("gain", 4, "validation")
        assert chosen["interval"][0] < chosen["value"] < chosen["interval"][1]
        (table,) = content["gains"]
        assert [row["marker"] for row in table["rows"]] == ["learned patch", "red circle", "random colours"]
        assert len({row["mass_without"] for row in table["rows"]}) == 1
        assert all(row["low"] <= row["gain"] <= row["high"] for row in table["rows"])

    def test_the_same_seed_the_same_bytes_another_seed_others(self, fitted: Path, photos: Path, tmp_path: Path) -> None:
        fit(photos, tmp_path / "again")
        for name in ("prompt.safetensors", "config.json", "README.md", "patch.png", "patch-progress.png"):
            assert (tmp_path / "again" / name).read_bytes() == (fitted / name).read_bytes(), name
        fit(photos, tmp_path / "other", "--seed", "1", "--no-compare")
        assert (tmp_path / "other" / "patch.png").read_bytes() != (fitted / "patch.png").read_bytes()

    def test_without_images_it_learns_on_scenes(self, tmp_path: Path) -> None:
        found = fit(None, tmp_path / "run", "--limit", "10", "--no-compare")
        data = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["parts"][0]["record"]["data"]
        assert (data["train"]["kind"], data["train"]["n"], data["test"]["n"]) == ("images", 10, 10)
        assert "Generated scenes of 64×64 pixels" in (tmp_path / "run" / "README.md").read_text("utf-8")
        assert "test" in found.stdout

    def test_labels_are_not_looked_at(self, photos: Path, tmp_path: Path) -> None:
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
            folder = tmp_path / "classes" / ("cat" if number % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
        words = ("fit", "patch", "-m", MODEL, "--out", tmp_path / "a", "--max-steps", "2", "--no-compare")
        found = run(*words, "--data", tmp_path / "classes")
        assert "2 folders in it, whose names are not looked at" in found.stderr
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "label"), *((path, "") for path in photos.rglob("*.jpg"))])
        fit(tmp_path / "list.csv", tmp_path / "b", "--no-compare")
        fit("scenes:count", tmp_path / "c", "--limit", "8", "--no-compare")
        assert "Labels are not used." in (tmp_path / "c" / "README.md").read_text("utf-8")

    def test_bad_images_are_named_and_left_out(self, photos: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(photos, data)
        (data / "empty.png").touch()
        whole = (data / "6.jpg").read_bytes()
        (data / "cut.jpg").write_bytes(whole[: len(whole) // 3])
        Image.new("RGB", (5, 5)).save(data / "tiny.png")
        with pytest.warns(UserWarning, match="left out of training") as said:
            fit(data, tmp_path / "run", "--epochs", "1", "--max-steps", "9", "--no-compare")
        assert all(any(name in str(one.message) for one in said) for name in ("empty.png", "cut.jpg", "tiny.png"))
        with pytest.raises(InvalidInputError, match=r"(empty|cut|tiny)\."):
            fit(data, tmp_path / "refused", "--on-bad", "refuse", "--max-steps", "9")

    def test_one_image(self, photos: Path, tmp_path: Path) -> None:
        found = fit(next(photos.glob("*.jpg")), tmp_path / "run")
        assert "nothing is known about how well it does" in found.stderr
        assert (tmp_path / "run" / "patch.png").is_file()

    def test_a_sweep_over_size_and_shape(self, photos: Path, tmp_path: Path) -> None:
        sweep = ("--sweep", "size=2,3", "--sweep", "shape=circle,full", "--sweep", "ratio=0.5", "--no-compare")
        found = fit(photos, tmp_path / "run", *sweep)
        assert found.stdout.count("0.5 │") == 4
        assert "low" not in found.stdout
        assert len(list((tmp_path / "run" / "sweep").glob("*/patch-progress.png"))) == 4
        options = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["parts"][0]["options"]
        assert options["ratio"] == 0.5
        side = {2: 16, 3: 24}[options["size"]]
        assert Image.open(tmp_path / "run" / "patch.png").size == (side, side)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("-o", "size=-1"), InvalidInputError, "size is a number from"),
        (("-o", "size=20"), InvalidInputError, "8 × 8 tokens.*hide all of it"),
        (("-o", "shape=star"), InvalidInputError, "circle, square, full"),
        (("-o", "ratio=1"), InvalidInputError, "ratio is a number"),
        (("-o", "blocks=9"), InvalidInputError, "6 blocks"),
        (("-o", "colr=1"), UnknownNameError, "unknown option of 'patch' 'colr'"),
        (("--lr", "-1"), InvalidInputError, "lr"),
        (("--format", "tar"), UnknownNameError, "format of data"),
        (("--data-option", "label=kind"), InvalidInputError, "labels are not read here"),
        (("--on-bad", "maybe"), UnknownNameError, "--on-bad"),
        (("--sweep", "shape=circle,star"), InvalidInputError, "circle, square, full"),
    ],
)
def test_mistakes(photos: Path, tmp_path: Path, words: tuple[str, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        fit(photos, tmp_path / "run", *words)
    assert not (tmp_path / "run" / "config.json").exists()


class TestMistakesAboutData:
    def test_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "film.mp4").touch()
        with pytest.raises(InvalidInputError, match=r"no images.*\.mp4"):
            fit(tmp_path / "data", tmp_path / "run")
        with pytest.raises(InvalidInputError, match="does not exist"):
            fit(tmp_path / "nowhere", tmp_path / "run")

    def test_options_of_data_without_data(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="go with --data"):
            fit(None, tmp_path / "run", "--validation", "0.5")

    def test_models_that_cannot_teach(self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with pytest.raises(UnsupportedError, match="can be used on this model"):
            run("fit", "patch", "-m", "remote:nobody", "--data", photos, "--out", tmp_path / "run", *QUICK)

    def test_other_strategies_need_labels(self, photos: Path, tmp_path: Path) -> None:
        words = ("fit", "gated", "-m", MODEL, "--data", photos, "--format", "images", "--out", tmp_path / "run")
        with pytest.raises(UnsupportedError, match="images without labels, and there is nothing to teach"):
            run(*words, *QUICK)

    def test_a_person_reads_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "data").mkdir()
        words = ["visprompt", "fit", "patch", "-m", MODEL, "--data", str(tmp_path / "data"), "--out", "run"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")


class TestInspect:
    def test_everything_about_a_patch(self, fitted: Path, tmp_path: Path) -> None:
        found = run("inspect", fitted, "--out", tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            "patch.png", "training.png", "gain.png", "attention-scene-1.png", "attention-scene-2.png",
        }  # fmt: skip
        assert Image.open(tmp_path / "patch.png").size == (480, 480)
        for wanted in ("A ring with a hole of 30 % of its size, 24 × 24 pixels", "16 images without labels",
                       "attention gain by block, n = 64", "attention gain as it is used, n = 4"):  # fmt: skip
            assert wanted in found.stdout
        assert "head" not in found.stdout
        enlarged = np.asarray(Image.open(tmp_path / "patch.png").convert("RGB"))
        small = np.asarray(Image.open(fitted / "patch.png"))
        solid = np.argwhere(small[:, :, 3] == 255)[0]
        assert (enlarged[solid[0] * 20 + 10, solid[1] * 20 + 10] == small[solid[0], solid[1], :3]).all()

    def test_on_images_of_ones_own(self, fitted: Path, photos: Path, tmp_path: Path) -> None:
        content = json.loads(run("inspect", fitted, "--image", photos, "--out", tmp_path, "--json").stdout)
        assert [row["marker"] for row in content["gain_by_block"]] == ["learned patch", "red circle", "random colours"]
        assert {row["n"] for row in content["gain_by_block"]} == {20}
        assert len(list(tmp_path.glob("attention-*.png"))) == 2
        one = next(photos.glob("*.jpg"))
        found = run("inspect", fitted, "--image", one, "-r", "5,5,40,40", "--out", tmp_path / "one")
        assert "no gains: they need 8 images" in found.stderr
        assert (tmp_path / "one" / f"attention-{one.stem}.png").is_file()
        with pytest.raises(InvalidInputError, match="one for each file; got 1 for 1, folders among them"):
            run("inspect", fitted, "--image", photos, "-r", "5,5,40,40", "--out", tmp_path / "two")

    def test_on_another_model(self, fitted: Path, tmp_path: Path) -> None:
        run("inspect", fitted, "-m", "bundled:scenes-llava", "--out", tmp_path)
        assert (tmp_path / "gain.png").is_file()
        assert (tmp_path / "attention-scene-1.png").is_file()


def test_show_and_score_with_it(fitted: Path, photos: Path, tmp_path: Path) -> None:
    image = next(photos.glob("*.jpg"))
    run("show", image, "-r", "8,8,40,40", "-p", fitted, "--out", tmp_path / "a.png")
    run("show", image, "-r", "8,8,40,40", "-p", f"{fitted}+falip", "--out", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    plain, marked = (
        json.loads(run("score", image, "a red circle", "a blue star", *more, "--json").stdout)[0]["scores"]
        for more in ((), ("-r", "8,8,40,40", "-p", fitted))
    )
    assert plain != marked


def test_a_patch_that_is_no_better_than_chance_is_said_to_be(photos: Path, tmp_path: Path) -> None:
    rate = ("--lr", "1e-9", "-o", "prior=none")  # as it was drawn: grey noise
    assert "not shown to draw more than random colours" in fit(photos, tmp_path / "run", *rate).stderr


def test_few_steps_are_said_to_be_few_unless_they_were_asked_for(photos: Path, tmp_path: Path) -> None:
    base = ("fit", "patch", "-m", MODEL, "--data", photos, "--no-compare", "--limit", 8)
    said = run(*base, "--out", tmp_path / "a").stderr
    # 8 images or fewer, 4 a step, 12 epochs.
    assert "are 24 steps" in said
    assert "--epochs 1200 --set evaluate_every=200" in said
    assert "note:" not in run(*base, "--out", tmp_path / "b", "--max-steps", 2).stderr


def test_a_patch_has_no_head(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no head to train"):
        fit(photos, tmp_path / "run", "--head", "linear")


class TestTables:
    def test_a_gain_has_its_interval(self) -> None:
        figures = [Metric("test", "mass_without", 0.2, 9), Metric("test", "gain", -0.1, 9, (-0.3, 0.1))]
        content = StringIO()
        Console(width=100, file=content).print(figures_table(figures, "t"))
        assert "mass without" in content.getvalue()
        assert "-0.10 │ -0.30 to 0.10" in content.getvalue()

    def test_a_sweep_shows_what_can_be_compared(self) -> None:
        rows = [{"size": 3, "gain": 2.0, "gain_low": 1.0, "gain_high": 3.0, "image_gain": 20.0, "mass": 0.5}]
        names = [str(column.header) for column in sweep_table(rows).columns]
        assert names == ["size", "gain", "mass"]


def test_only_images_that_can_be_used_are_measured(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    opened = Opened(unlabelled(sorted(tmp_path.glob("*.png")), on_bad="skip"), most=2)
    assert len(opened) == 2
    assert [one.size for one in opened] == [(20, 20), (20, 20)]
