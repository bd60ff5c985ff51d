"""Files that a run writes: checked beforehand, replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from visprompt.errors import InvalidInputError
from visprompt.utils import files
from visprompt.utils.files import replacing, require_file, require_folder, write_bytes, write_text

posix = pytest.mark.skipif(os.name == "nt", reason="permissions by umask")


class TestReplacing:
    def test_text_and_bytes_and_a_new_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "deep" / "a.txt"
        write_text(path, "größer\n")
        assert path.read_bytes() == "größer\n".encode()
        write_bytes(path, b"\x00\r\n")
        assert path.read_bytes() == b"\x00\r\n"
        assert os.listdir(path.parent) == ["a.txt"]

    def test_an_error_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        write_text(path, "old")

        def killed() -> None:
            with replacing(path) as partial:
                partial.write_text("half of the n")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            killed()
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_readers_see_the_old_content_until_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        write_text(path, "old")
        with replacing(path) as one, replacing(path) as two:  # as two processes would
            assert one != two
            one.write_text("one")
            two.write_text("two")
            assert path.read_text() == "old"
        assert path.read_text() == "one"

    def test_content_is_on_the_disk_before_it_takes_the_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(files.os, "fsync", lambda handle: (done.append("fsync"), fsync(handle))[1])
        monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append("replace"), replace(a, b))[1])
        write_text(tmp_path / "a.txt", "x")
        assert done == ["fsync", "replace"]

    @posix
    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_permissions_are_those_of_other_files(self, tmp_path: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            write_text(tmp_path / "a.txt", "x")
        finally:
            os.umask(before)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


class TestRequire:
    def test_a_folder_need_not_be_there_yet(self, tmp_path: Path) -> None:
        assert require_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        assert not (tmp_path / "a").exists()

    def test_a_file_on_the_way(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a", "x")
        with pytest.raises(InvalidInputError, match="is a file and not a folder"):
            require_folder(tmp_path / "a" / "b")
        with pytest.raises(InvalidInputError, match=r"--out .*is a file and not a folder"):
            require_file(tmp_path / "a" / "b.txt", "--out")

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"--save .* is a folder: give the name of a file in it"):
            require_file(tmp_path, "--save")
        assert require_file(tmp_path / "new" / "b.txt", "--out") == tmp_path / "new" / "b.txt"

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="cannot write into"):
            require_folder(tmp_path / ("a" * 5000))
