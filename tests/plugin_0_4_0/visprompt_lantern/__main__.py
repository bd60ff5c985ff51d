"""What the plug-in's functions give, as JSON: once with 0.4.0, whose numbers are in `expected.json`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ENTRIES = """[visprompt.strategies]
lantern = visprompt_lantern.lantern:Lantern
glow = visprompt_lantern.glow:Glow
"""


def write_distribution(folder: Path) -> None:
    """Puts into a folder of `sys.path` what pip writes there when the plug-in is installed."""
    info = folder / "visprompt_lantern-0.4.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visprompt-lantern\nVersion: 0.4.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)


def main() -> None:
    """Prints them."""
    with tempfile.TemporaryDirectory() as site, tempfile.TemporaryDirectory() as folder:
        write_distribution(Path(site))
        sys.path.append(site)
        from visprompt_lantern.report import everything

        json.dump(everything(Path(folder)), sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
