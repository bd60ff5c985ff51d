"""Importing visprompt is cheap, in a fresh interpreter: heavy libraries wait until they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "transformers", "open_clip", "timm", "matplotlib", "accelerate", "skimage", "cv2")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(set(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import visprompt",
        "import visprompt.cli.app",
        "import visprompt.testing",
        "import visprompt as vp; vp.Box(1, 2, 3, 4)",
        "import visprompt as vp; vp.Prompter",
        "import visprompt as vp; dir(vp); vp.UnsupportedError",
    ],
)
def test_import_is_light(statement: str) -> None:
    assert not loaded_after(statement).intersection(HEAVY)


def test_listing_strategies_loads_no_model_library() -> None:
    assert not loaded_after("import visprompt as vp; vp.list_strategies()").intersection(
        {"torch", "transformers", "open_clip", "timm", "matplotlib"}
    )


def test_every_public_name_resolves() -> None:
    import visprompt as vp

    for name in vp.__all__:
        assert getattr(vp, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vp.no_such_name


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nsys.argv = ['visprompt', '--help']\nfrom visprompt.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("list", "show", "score", "bench"):
        assert command in done.stdout
