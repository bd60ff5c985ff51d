"""The speed benchmarks run and print what they measure; figures are for quiet machines, not for tests."""

from __future__ import annotations

import pytest
from visprompt.benchmarks import measuring, speed_patch, speed_tuning


def rows(printed: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_learning_a_patch(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--models timm siglip --at -1 0 --blocks 2 --batch 1 --rounds 1 --no-peak --markdown"
    speed_patch.main(options.split())
    found = rows(capsys.readouterr().out)
    assert [row[:3] for row in found] == [
        ["timm", "cls", "plain"],
        ["timm", "cls", "patch, block 1 of 0–1"],
        ["timm", "cls", "patch, block 0 of 0–1"],
        ["siglip", "probe", "plain"],
        ["siglip", "probe", "patch, block 2 of 0–2"],
    ]
    assert found[0][4:6] == found[3][4:6] == ["1.000", "1.000"]
    saved = [float(row[6]) for row in found]
    assert saved[2] < saved[1], "the block behind the one that teaches keeps nothing for the backward pass"


def test_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--models timm --dtype float32 --blocks 2 --batch 1 --prompts 2 --rounds 1 --no-peak --markdown"
    speed_tuning.main(options.split())
    found = rows(capsys.readouterr().out)
    assert [row[:3] for row in found] == [["timm", "float32", "plain"], ["timm", "float32", "ours"]]
    assert all(float(row[8]) > 1 for row in found)


def test_ratios_are_taken_round_by_round() -> None:
    assert measuring.ratio([(2.0, 3.0), (8.0, 4.0), (3.0, 9.0)], [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]) == [
        "2.000",
        "3.000",
    ]
