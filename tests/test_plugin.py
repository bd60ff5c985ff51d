"""Plug-ins: the example package is installed with pip and used; broken and greedy ones do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parent / "plugin_example"

LISTING = """
import json
import visprompt as vp
print(json.dumps({info.name: [info.origin, sorted(info.acts_on), sorted(info.needs)] for info in vp.list_strategies()}))
"""

RUN = """
import json
import numpy as np
from PIL import Image
import visprompt as vp
from visprompt.testing.tiny import tiny

small = tiny("transformers-clip")
model = vp.wrap(small.module, small.processor, small.tokenizer)
image = Image.new("RGB", (64, 48), (200, 200, 200))
request = vp.Request(image, region=vp.Box(16, 12, 48, 36))
prompter = vp.Prompter.from_name("spotlight", preset="night")
(shown,) = vp.Runner(model, prompter).render([request])
pixels = np.asarray(shown.convert("RGB"))
both = vp.Runner(model, vp.Prompter.from_name("spotlight+circle")).encode([request])
print(json.dumps({
    "inside": int(pixels[24, 32, 0]),
    "outside": int(pixels[2, 2, 0]),
    "dim": prompter.options.dim,
    "moved": float((both - vp.Runner(model, None).encode([request])).abs().max()),
}))
"""


def fresh(code: str, *folders: Path) -> tuple[Any, str]:
    """The JSON that `code` prints in a fresh interpreter with further folders on its path, and its standard error."""
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "always", "-c", code]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def write_distribution(folder: Path, name: str, module: str, source: str, entry: str) -> Path:
    """Puts an installed distribution into `folder`, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[visprompt.strategies]\n{entry}\n")
    (folder / f"{module}.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plug-in, installed by pip into a folder of its own."""
    import shutil

    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    target = source.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--target", str(target), str(source)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.plugin
def test_the_example_is_listed_with_its_origin(installed: Path) -> None:
    listed, _ = fresh(LISTING, installed)
    origin, acts_on, needs = listed["spotlight"]
    assert "visprompt-spotlight" in origin
    assert "1.2.3" in origin
    assert (acts_on, needs) == (["pixels"], ["region"])
    assert "visprompt-toolkit" in listed["falip"][0]


@pytest.mark.plugin
def test_the_example_runs_alone_and_composed(installed: Path) -> None:
    result, _ = fresh(RUN, installed)
    assert result["dim"] == 0.95
    assert result["inside"] == 200
    assert result["outside"] == 10
    assert result["moved"] > 0


@pytest.mark.plugin
def test_the_example_conforms(installed: Path) -> None:
    code = (
        "import json\nfrom visprompt.testing import check_strategy\n"
        "print(json.dumps(check_strategy('spotlight', models=['transformers-clip', 'timm-vit'])))"
    )
    result, _ = fresh(code, installed)
    assert set(result) == {"transformers-clip", "timm-vit"}
    assert all(outcome == "supported" for outcome in result.values())


@pytest.mark.plugin
def test_a_broken_plugin_is_skipped_alone(installed: Path, tmp_path: Path) -> None:
    source = "import a_library_that_is_not_there\n"
    broken = write_distribution(tmp_path, "acme-broken", "acme_broken", source, "wobble = acme_broken:Wobble")
    listed, warned = fresh(LISTING, installed, broken)
    assert "wobble" not in listed
    assert {"spotlight", "falip", "circle"} <= set(listed)
    assert "acme-broken" in warned
    assert "a_library_that_is_not_there" in warned


@pytest.mark.plugin
@pytest.mark.parametrize("source", ["class Wobble: pass\n", "Wobble = 3\n", "# nothing here\n"])
def test_an_entry_point_that_is_no_strategy_is_skipped_alone(tmp_path: Path, source: str) -> None:
    odd = write_distribution(tmp_path, "acme-odd", "acme_odd", source, "wobble = acme_odd:Wobble")
    listed, warned = fresh(LISTING, odd)
    assert "wobble" not in listed
    assert "falip" in listed
    assert "acme-odd" in warned


@pytest.mark.plugin
def test_a_builtin_cannot_be_replaced_silently(tmp_path: Path) -> None:
    source = "import visprompt as vp\n\n\nclass Mine(vp.Prompter):\n    '''Not FALIP.'''\n"
    greedy = write_distribution(tmp_path, "acme-greedy", "acme_greedy", source, "falip = acme_greedy:Mine")
    listed, warned = fresh(LISTING, greedy)
    assert "visprompt-toolkit" in listed["falip"][0]
    assert "acme-greedy" in warned
    assert "falip" in warned
