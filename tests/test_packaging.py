"""The wheel holds everything that an installed visprompt needs, and nothing from the tests."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
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
        ("visprompt/benchmarks/", "scenes.yaml"),
        ("visprompt/benchmarks/", "published.yaml"),
        ("visprompt/templates/", ""),
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


def test_the_unpacked_wheel_works_outside_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(site)
    elsewhere.mkdir()
    code = (
        "import visprompt as vp, visprompt.strategies.falip as falip\n"
        "from PIL import Image\n"
        "model = vp.load_model('bundled:scenes-clip')\n"
        "request = vp.Request(Image.new('RGB', (64, 64), (200, 30, 30)), region=vp.Box(8, 8, 40, 40))\n"
        "scores = vp.Runner(model, vp.Prompter.from_name('falip')).score([request], ['a red star', 'a blue circle'])\n"
        "print(vp.__file__, falip.__file__, scores.isfinite().all().item(), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:visprompt", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=elsewhere,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package, strategy, finite = done.stdout.split()[-3:]
    assert Path(package).is_relative_to(site)
    assert Path(strategy).is_relative_to(site)
    assert finite == "True"
