"""The folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visprompt.bench.store import Store
from visprompt.utils.jsonl import read_jsonl


def row(label: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "accuracy", "suite": "s", "task": "t", "row": label, "model": "m", "value": 0.5, **changes}


def test_units_are_found_whichever_file_they_are_in(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.known("a") is None
    store.add("runs", {"id": "a", "run": "report", "value": 1})
    store.add("runs-some-model", {"id": "b", "run": "gain", "value": 2})
    store.add("maps", {"id": "m/t", "run": "c", "maps": [], "model": "m"})
    for one in (store, Store(tmp_path)):
        assert [one.known(key) is not None for key in ("a", "b", "c/m/t", "c", "d")] == [True] * 3 + [False] * 2
    with open(tmp_path / "runs.jsonl", "a", encoding="utf-8") as file:
        file.write('{"cut off')
    again = Store(tmp_path)
    again.add("runs", {"id": "e", "run": "report"})
    assert [one["id"] for one in read_jsonl(tmp_path / "runs.jsonl")] == ["a", "e"]


def test_rows_made_now_stand_in_the_place_of_old_ones(tmp_path: Path) -> None:
    Store(tmp_path).write([row("a"), row("b"), row("a", model="n"), row("a", suite="other")])
    store = Store(tmp_path)
    merged = store.merged([row("b", value=0.7), row("c")])
    assert [(one["suite"], one["model"], one["row"], one["value"]) for one in merged] == [
        ("s", "m", "a", 0.5), ("s", "m", "b", 0.7), ("s", "n", "a", 0.5), ("other", "m", "a", 0.5), ("s", "m", "c", 0.5)
    ]  # fmt: skip
    assert [one["row"] for one in store.beside("s", "m", "t", [row("b")])] == ["a"]


def test_namesakes_get_a_piece_of_their_weights_hash(tmp_path: Path) -> None:
    Store(tmp_path).write([row("a", model_identity={"weights": "1" * 16})])
    store = Store(tmp_path)
    assert store.label("s", "m", "1" * 16, {}) == "m"
    assert store.label("s", "m", "2" * 16, {}) == "m-222222"
    assert store.label("s", "m", "2" * 16, {"m-222222": "2222223"}) == "m-" + "2" * 16
    assert store.label("other", "m", "2" * 16, {}) == "m"
    assert Store(tmp_path, fresh=True).label("s", "m", "2" * 16, {}) == "m"


def test_forgetting_leaves_what_belongs_to_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write([row("a"), row("a", model="n")])
    for stem in ("items-t-m", "items-t-n", "runs-m"):
        store.add(stem, {"id": "x", "run": "r"})
    for model in "mn":
        store.add("maps", {"id": f"{model}/t", "run": "r", "maps": [], "model": model})
    (tmp_path / "patches" / "p").mkdir(parents=True)
    store = Store(tmp_path)
    store.forget(["items-t-m.jsonl", "runs-m.jsonl", "patches"], "m")
    assert [one["model"] for one in store.earlier] == ["n"]
    assert [one["model"] for one in read_jsonl(tmp_path / "maps.jsonl")] == ["n"]
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "maps.jsonl", "items-t-n.jsonl"}
    store.add("items-t-k", {"id": "x", "run": "r"})
    store.forget_untouched()
    assert {path.name for path in tmp_path.glob("items-*")} == {"items-t-k.jsonl"}
    assert store.earlier == []
