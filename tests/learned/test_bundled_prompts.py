"""Which bundled prompt is for which strategy and model: by class and weights, never by a name in the core."""

from __future__ import annotations

from typing import Any

import pytest

import visprompt as vp
from visprompt import bundled
from visprompt.learned import bundled_prompts
from visprompt.registry import get_class
from visprompt.testing import conformance

PATCH: Any = get_class("patch")
VPT: Any = get_class("vpt")


def test_they_belong_to_the_class_in_their_config_and_to_its_sub_classes() -> None:
    class Mine(PATCH):  # type: ignore[misc]
        """A strategy derived from one that ships."""

    assert bundled_prompts.names_of(PATCH) == bundled_prompts.names_of(Mine) == bundled.patches()
    assert bundled_prompts.names_of(VPT) == ()
    assert bundled_prompts.digests_of(VPT) == {}


def test_digests_are_different_and_go_into_descriptions() -> None:
    found = bundled_prompts.digests_of(PATCH)
    assert set(found) == set(bundled.patches())
    assert len(set(found.values())) == len(found)
    assert vp.Prompter.from_name("patch").describe()["bundled"] == found
    assert "bundled" not in vp.Prompter.from_name("vpt").describe()


def test_a_model_is_known_by_its_weights() -> None:
    model = vp.load_model("bundled:scenes-mae")
    found = bundled_prompts.prompt_for(PATCH, model)
    assert found is not None
    assert (found.backbone or {})["name"] == "bundled:scenes-mae"
    assert bundled_prompts.prompt_for(PATCH, model) is found
    assert bundled_prompts.prompt_for(VPT, model) is None
    assert bundled_prompts.prompt_for(PATCH, conformance.wrapped("timm-vit")[1]) is None


def test_options_of_use_are_taken_over_and_others_refused() -> None:
    found = bundled_prompts.prompt_for(PATCH, vp.load_model("bundled:scenes-mae"))
    assert found is not None
    asked: Any = vp.Prompter.from_name("patch", place="rim", opacity=0.5)
    used = bundled_prompts.used_as(asked, found)
    assert (used.options.place, used.options.opacity, used.options.size) == ("rim", 0.5, found.options.size)
    assert used.parameters is found.parameters
    assert found.options.place == "centre"
    other: Any = vp.Prompter.from_name("patch", shape="square" if found.options.shape != "square" else "full")
    with pytest.raises(vp.InvalidInputError, match=r"was learned with shape=.*Leave that out \(scale=… pastes"):
        bundled_prompts.used_as(other, found)


def test_a_bundled_prompt_of_a_strategy_that_is_not_installed_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise vp.UnknownNameError(name)

    monkeypatch.setattr(bundled_prompts, "get_class", missing)
    assert bundled_prompts.names_of(PATCH) == ()


def test_every_bundled_model_says_which_patch_is_for_it() -> None:
    for name in bundled.names():
        assert bundled.patch_of(name) == bundled.patch_of(f"bundled:{name}") == f"bundled:patch-{name}"
    assert bundled.patch_of("another") == ""
