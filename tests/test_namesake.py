"""An environment that also holds the unrelated distribution `visprompt` gets a clear error, not a mixture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_namesake_is_refused(tmp_path: Path) -> None:
    info = tmp_path / "visprompt-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visprompt\nVersion: 9.9\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", "import visprompt"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "visprompt 9.9" in run.stderr
    assert "pip uninstall" in run.stderr
