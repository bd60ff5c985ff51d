"""The command line as people use it: in this process where that is enough, in a fresh one where imports matter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from visprompt.cli import app as cli
from visprompt.cli.arguments import numbers_of, options_of
from visprompt.errors import InvalidInputError

RUNNER = CliRunner()


def run(*words: str) -> str:
    found = RUNNER.invoke(cli.app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture
def image(tmp_path: Path) -> str:
    from visprompt.data.scenes.world import scene

    path = tmp_path / "scene.png"
    scene(3, hard=True).pil.save(path)
    return str(path)


class TestHelp:
    def test_help_needs_no_torch(self) -> None:
        code = (
            "import sys; sys.argv = ['visprompt', '--help']\n"
            "from visprompt.cli.app import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)

    @pytest.mark.parametrize("command", ["list", "show", "score", "ask", "bench"])
    def test_every_command_has_an_example(self, command: str) -> None:
        assert f"Example: visprompt {command}" in run(command, "--help")

    def test_version(self) -> None:
        assert run("--version").startswith("visprompt 0.")


class TestList:
    def test_strategies(self) -> None:
        text = run("list")
        for wanted in ("falip", "circle", "attention"):
            assert wanted in text
        rows = {row["name"]: row for row in json.loads(run("list", "strategies", "--json"))}
        assert {"name", "acts_on", "needs", "origin", "presets", "options"} <= rows["falip"].keys()
        assert rows["falip"]["acts_on"] == ["attention"]
        assert rows["falip"]["origin"].startswith("visprompt-toolkit")

    def test_models_and_suites(self) -> None:
        import visprompt as vp

        assert [row["name"] for row in json.loads(run("list", "models", "--json"))] == vp.list_models()
        assert "scenes-quick" in run("list", "suites")


class TestScore:
    def test_table_and_json(self, image: str) -> None:
        words = (
            "score",
            image,
            "a red star",
            "a blue circle",
            "--region",
            "4,4,30,30",
            "--region",
            "30 30 60 60",
            "-p",
            "falip",
        )
        rows = json.loads(run(*words, "-o", "strength=1.5", "--json"))
        assert len(rows) == 2
        assert set(rows[0]["scores"]) == {"a red star", "a blue circle"}
        assert sum(rows[0]["probs"].values()) == pytest.approx(1)
        assert "Box(" in run(*words)

    def test_formats_mean_the_same_place(self, image: str) -> None:
        places = {
            "xyxy": "16,16,48,48",
            "xywh": "16,16,32,32",
            "normalised": "0.25,0.25,0.75,0.75",
            "qwen": "250,250,750,750",
        }
        found = [
            json.loads(
                run("score", image, "a red star", "--region", numbers, "--format", name, "-p", "falip", "--json")
            )
            for name, numbers in places.items()
        ]
        assert all(one == found[0] for one in found)

    def test_brackets_and_colons_are_text(self, image: str) -> None:
        text = run("score", image, "a [/b] dog", "[red]x[/red] :cat:")
        assert "a [/b] dog" in text
        assert "[red]x[/red] :cat:" in text

    def test_the_whole_image(self, image: str) -> None:
        assert json.loads(run("score", image, "a red star", "--json"))[0]["region"] == "whole image"


class TestShow:
    @pytest.mark.parametrize("prompter", ["falip", "circle", "crop"])
    def test_writes_a_image(self, image: str, tmp_path: Path, prompter: str) -> None:
        out = tmp_path / "new" / "shown.png"
        run("show", image, "--region", "8,8,40,40", "-p", prompter, "--out", str(out))
        with Image.open(out) as shown:
            assert shown.width > 800

    def test_blocks_have_numbers_and_no_strategy_is_one_too(self, image: str, tmp_path: Path) -> None:
        for words in (("-r", "8,8,40,40", "--block", "0"), ("-r", "8,8,40,40", "-p", "none"), ("-p", "none")):
            run("show", image, *words, "--out", str(tmp_path / "a.png"))
            (tmp_path / "a.png").unlink()

    def test_points_and_masks(self, image: str, tmp_path: Path) -> None:
        mask = Image.new("L", (64, 64))
        mask.paste(255, (8, 8, 30, 30))
        mask.save(tmp_path / "mask.png")
        run("show", image, "--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "a.png"))
        run("show", image, "--point", "20,20,6", "--point", "40,40", "--out", str(tmp_path / "b.png"))
        assert (tmp_path / "a.png").exists()
        assert (tmp_path / "b.png").exists()


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("bench", "scens"), "did you mean 'scenes'"),
            (("list", "strategy"), "did you mean 'strategies'"),
            (("score", "none.png", "a cat"), "none.png"),
            (("score", "IMAGE", "a cat", "--region", "1,2,3"), "takes 4 numbers"),
            (("score", "IMAGE", "a cat", "--region", "1,2,30,40"), "name one with --prompter"),
            (("score", "IMAGE", "a cat", "--region", "1,2,30,40", "-p", "flip"), "did you mean 'falip'"),
            (
                ("score", "IMAGE", "a cat", "--region", "1,2,30,40", "-p", "falip", "-o", "strenght=1"),
                "did you mean 'strength'",
            ),
            (("score", "IMAGE", "a cat", "--region", "1,2,30,40", "-p", "falip", "-o", "strength"), "key=value"),
            (("score", "IMAGE", "a cat", "--region", "90,90,99,99", "-p", "falip"), "90"),
            (
                ("score", "IMAGE", "a cat", "--region", "1,2,3,4", "--format", "xyhw", "-p", "falip"),
                "did you mean 'xywh'",
            ),
            (("show", "IMAGE", "--region", "1,2,30,40", "--out", "x.jpg"), "should end in .png"),
            (("show", "IMAGE", "-p", "falip", "--out", "x.png"), "needs a region"),
            (("show", "IMAGE", "-r", "1,2,30,40", "-p", "crop|falip", "--out", "x.png"), "one prompt per member"),
            (("show", "IMAGE", "-r", "1,2,30,40", "--fit", "sqush", "--out", "x.png"), "did you mean 'squash'"),
            (("score", "IMAGE", "a cat", "--model", "bundled:scenes-clp"), "did you mean 'scenes-clip'"),
            (("score", "IMAGE", "a cat", "-r", "1,2,30,40", "-p", "falip", "-o", "heads=all"), "all"),
            (("score", "IMAGE", "a cat", "-r", "1,2,30,40", "-p", "falip", "-o", "name=x"), "no option of 'falip'"),
            (("score", "IMAGE", "a [/b] dog", "-r", "1,2,30,40", "-p", "f[/b]lip"), "'f[/b]lip'"),
            (("show", "IMAGE", "-p", "none", "-o", "strength=1", "--out", "x.png"), "belong to a strategy"),
            (("show", "IMAGE", "-r", "1,2,30,40", "--block", "99", "--out", "x.png"), "99"),
            (("show", "IMAGE", "-r", "1,2,30,40", "--out", "IMAGE/x.png", "-m", "none"), "is a file and not a"),
            (("show", "IMAGE", "-r", "1,2,30,40", "--out", "FOLDER.png", "-m", "none"), "is a folder"),
            (("bench", "scenes-quick", "--out", "IMAGE", "-m", "none"), "is a file and not a folder"),
            (("bench", "scenes-quick", "--out", "IMAGE/runs", "-m", "none"), "is a file and not a folder"),
            (("bench", "SUITE latin-1", "--out", "FOLDER.png"), "not UTF-8"),
            (("bench", "SUITE many", "--out", "FOLDER.png"), "n in data of task a is a whole number"),
            (("bench", "SUITE evil", "--out", "FOLDER.png"), "letters, digits"),
            (("bench", "scenes-quick", "-s", "[/b]", "--out", "FOLDER.png"), "'[/b]'"),
        ],
    )
    def test_one_red_line_and_exit_code_2(
        self,
        words: tuple[str, ...],
        message: str,
        image: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        suites = {
            "SUITE latin-1": "title: Übersicht".encode("latin-1"),
            "SUITE many": b"tasks: {a: {task: referring, data: {source: scenes, n: many}}}\nstrategies: [none]",
            "SUITE evil": b"tasks: {x/../../evil: {task: referring, data: {source: scenes}}}\nstrategies: [none]",
        }
        for number, (name, content) in enumerate(suites.items()):
            (tmp_path / f"{number}.yaml").write_bytes(content)
            words = tuple(str(tmp_path / f"{number}.yaml") if word == name else word for word in words)
        (tmp_path / "folder.png").mkdir()
        words = tuple(word.replace("FOLDER", str(tmp_path / "folder")) for word in words)
        words = tuple(word.replace("IMAGE", image) for word in words)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["visprompt", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        lines = [line for line in err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert message in lines[0]
        assert "Traceback" not in err

    def test_debug_shows_the_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["visprompt", "--debug", "list", "strategy"])
        with pytest.raises(Exception, match="did you mean 'strategies'"):
            cli.main()

    def test_small_parsers(self) -> None:
        assert options_of(["a=1", "b=[0, 1]", "c=yes sir", "d=1e-3", "e="]) == {
            "a": 1,
            "b": [0, 1],
            "c": "yes sir",
            "d": 1e-3,
            "e": None,
        }
        assert numbers_of("1, 2,3 4", (4,), "--region") == [1, 2, 3, 4]
        with pytest.raises(InvalidInputError):
            options_of(["a=[1"])


def test_bench_from_another_folder_in_a_fresh_process(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "visprompt.cli.app",
        "bench",
        "scenes-quick",
        "--limit",
        "4",
        "-s",
        "none",
        "-s",
        "falip",
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["n"] for row in rows] == [4] * 6
    for name in ("report.html", "report.md", "results.jsonl"):
        assert (tmp_path / "runs/scenes-quick" / name).stat().st_size > 1000
