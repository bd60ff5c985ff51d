"""What an answer depends on besides model, data and options: code of plug-ins and versions of libraries."""

import importlib
import sys
from pathlib import Path

import pytest

from visprompt.tasks import Condition, Referring
from visprompt.tasks.base import run_hash
from visprompt.tasks.fingerprint import library_versions, strategy_code


class TestWhatAnAnswerDependsOn:
    def test_the_code_of_a_plug_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hashes = []
        for number, text in enumerate(["x = 1", "x = 2", "x = 2"]):
            folder = tmp_path / str(number) / "someones_plugin"
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text("")
            (folder / "helper.py").write_text(text)
            (folder / "strategy.py").write_text(
                "from visprompt.strategies.circle import Circle\n\n\nclass Mine(Circle):\n    name = 'mine'\n"
            )
            monkeypatch.syspath_prepend(str(folder.parent))
            for name in [one for one in sys.modules if one.startswith("someones_plugin")]:
                monkeypatch.delitem(sys.modules, name)
            member = importlib.import_module("someones_plugin.strategy").Mine()
            monkeypatch.setattr(Condition, "members", lambda self, member=member: [member])
            hashes.append(run_hash(Referring(), {}, Condition("circle"), None))
        for name in [one for one in sys.modules if one.startswith("someones_plugin")]:
            del sys.modules[name]
        assert hashes[0] != hashes[1]
        assert hashes[1] == hashes[2]

    def test_code_without_a_file_is_never_taken_for_the_same(self) -> None:
        kind = type("Typed", (type(Condition("circle").members()[0]),), {"__module__": "no_such_module"})
        (found,) = strategy_code([kind()])
        assert len(found["sources"]["no_such_module"]) == 32

    def test_our_own_strategies_have_the_version_of_the_distribution(self) -> None:
        (found,) = strategy_code(Condition("circle").members())
        assert found["class"] == "visprompt.strategies.circle.Circle"
        assert found["distribution"].startswith("visprompt-toolkit ")
        assert found["sources"] == {}
        assert [one["class"].rpartition(".")[2] for one in strategy_code(Condition("circle+falip").members())] == [
            "Composition",
            "Circle",
            "Falip",
        ]

    def test_the_versions_of_libraries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = run_hash(Referring(), {}, Condition("circle"), None)
        assert {"torch", "transformers"} <= library_versions().keys()
        monkeypatch.setattr("visprompt.tasks.base.library_versions", lambda: {**library_versions(), "torch": "99"})
        assert run_hash(Referring(), {}, Condition("circle"), None) != before
