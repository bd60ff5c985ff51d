"""The wheel holds everything that an installed visprompt needs, and nothing from the tests."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import site as site_module
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("visprompt", "strategies", "benchmarks", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: a build leaves folders behind, and these would be found by the next one."""
    folder = tmp_path_factory.mktemp("source")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(folder / "out"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_and_data_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for part, package in (("visprompt", "visprompt"), ("strategies", "visprompt/strategies")):
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                expected.add(f"{package}/{path.relative_to(ROOT / part)}")
    for path in (ROOT / "benchmarks").iterdir():
        if path.suffix in (".py", ".yaml"):
            expected.add(f"visprompt/benchmarks/{path.name}")
    missing = sorted(expected - set(wheel.namelist()))
    assert not missing, f"not in the wheel: {missing}; see [tool.setuptools] in pyproject.toml"


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("visprompt/strategies/", "falip.yaml"),
        ("visprompt/bundled/scenes_clip/", ".safetensors"),
        ("visprompt/bundled/scenes_clip_annotated/", ".safetensors"),
        ("visprompt/bundled/patches/scenes-clip/", "config.json"),
        ("visprompt/bundled/patches/scenes-clip-annotated/", "prompt.safetensors"),
        ("visprompt/bundled/patches/scenes-llava/", "patch.png"),
        ("visprompt/bundled/patches/scenes-mae/", "README.md"),
        ("visprompt/benchmarks/", "scenes.yaml"),
        ("visprompt/benchmarks/", "published.yaml"),
        ("visprompt/bench/report/templates/", ""),
        ("visprompt/", "py.typed"),
        ("visprompt_toolkit-", "licenses/LICENSE"),
    ],
)
def test_it_holds(wheel: zipfile.ZipFile, prefix: str, suffix: str) -> None:
    assert any(name.startswith(prefix) and name.endswith(suffix) for name in wheel.namelist())


def test_it_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"visprompt", next(top for top in tops if top.endswith(".dist-info"))}


def test_entry_points_lead_to_classes(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert parser["console_scripts"]["visprompt"] == "visprompt.cli:main"
    for target in parser["visprompt.strategies"].values():
        module, attribute = target.split(":")
        source = wheel.read(module.replace(".", "/") + ".py").decode()
        assert f"class {attribute}(" in source


def test_bundled_models_stay_small(wheel: zipfile.ZipFile) -> None:
    sizes: dict[str, int] = {}
    for item in wheel.infolist():
        parts = item.filename.split("/")
        if parts[:2] == ["visprompt", "bundled"] and len(parts) > 3:
            sizes[parts[2]] = sizes.get(parts[2], 0) + item.file_size
    assert sizes
    assert all(size <= 12_000_000 for size in sizes.values()), sizes
    assert sizes["patches"] <= 200_000


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the wheel into."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run(
        [*command, "--target", str(site), str(wheel.filename)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return site


#: -I and -S: no PYTHONPATH, no working folder, and no .pth files, so an editable install cannot answer for the wheel;
#: what the wheel depends on is added by hand
_START = """
import sys
sys.path[:0] = [{site!r}]
sys.path += {dependencies!r}
assert not any("editable" in type(finder).__module__ or "editable" in repr(finder) for finder in sys.meta_path)
"""


def run_installed(site: Path, folder: Path, code: str) -> list[str]:
    """Runs code in a fresh interpreter that knows the installed wheel and its dependencies only; its lines."""
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site_module.getsitepackages()]
    start = _START.format(site=str(site), dependencies=list(dict.fromkeys(paths)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


# The console script of the wheel's own entry points, run as pip's wrapper runs it.
_CONSOLE = """
from importlib.metadata import distribution
entries = distribution("visprompt-toolkit").entry_points
(main,) = (one.load() for one in entries if (one.group, one.name) == ("console_scripts", "visprompt"))
sys.argv = ["visprompt", *{words!r}]
try:
    main()
finally:
    import visprompt, visprompt.strategies.falip, visprompt.benchmarks
    print("FILES")
    print(visprompt.__file__, visprompt.strategies.falip.__file__, visprompt.benchmarks.__file__, sep="\\n")
"""
_NO_MATPLOTLIB = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("plots", [True, False])
def test_the_installed_wheel_runs_the_bench_outside_the_checkout(installed: Path, tmp_path: Path, plots: bool) -> None:
    words = ["bench", "scenes-quick", "--limit", "2", "--out", "runs/quick", "-s", "none", "-s", "falip", "--json"]
    code = ("" if plots else _NO_MATPLOTLIB) + _CONSOLE.format(words=words)
    lines = run_installed(installed, tmp_path, code)
    files = lines[lines.index("FILES") + 1 :]
    assert len(files) == 3
    assert all(Path(file).is_relative_to(installed) for file in files), files
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["n"] for row in rows] == [2] * 6  # three tasks
    page = (tmp_path / "runs/quick/report.html").read_text(encoding="utf-8")
    assert "falip" in page
    assert ("Bar chart of the accuracies" in page) == plots
    assert ("visprompt-toolkit[plots]" in page) != plots
    assert (tmp_path / "runs/quick/report.md").stat().st_size > 500


def test_the_installed_wheel_finds_its_strategies_and_models(installed: Path, tmp_path: Path) -> None:
    code = (
        "import visprompt as vp\n"
        "from PIL import Image\n"
        "model = vp.load_model('bundled:scenes-clip-annotated')\n"
        "request = vp.Request(Image.new('RGB', (64, 64), (200, 30, 30)), region=vp.Box(8, 8, 40, 40))\n"
        "scores = vp.Runner(model, vp.Prompter.from_name('circle')).score([request], ['a red star', 'a blue circle'])\n"
        "found = vp.Prompter.from_name('patch')\n"
        "vp.Runner(model, found).score([request], ['a red star'])\n"
        "other = vp.Prompter.from_pretrained('bundled:patch-scenes-mae')\n"
        "names = [one.backbone['name'] for one in (found.on(model), other)]\n"
        "print(len(vp.list_strategies()), scores.isfinite().all().item(), *names)"
    )
    entries = (ROOT / "pyproject.toml").read_text(encoding="utf-8").count('= "visprompt.strategies.')
    told = f"{entries} True bundled:scenes-clip-annotated bundled:scenes-mae"
    assert run_installed(installed, tmp_path, code)[-1] == told
