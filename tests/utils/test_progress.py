"""The progress bar: on a terminal, and gone afterwards; nothing in a log."""

from __future__ import annotations

import pytest

from visprompt.utils.progress import progress_bar


def test_nothing_is_written_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading [x]", 3) as advance:
        advance(1)
        advance(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_terminal_sees_title_and_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar("reading [x]", 3, hidden=hidden) as advance:
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("reading [x]" in err and "2/3" in err) is not hidden
