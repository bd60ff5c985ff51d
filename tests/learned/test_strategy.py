"""What all learned strategies share: building, saving, refusing, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import nn

import visprompt as vp
from visprompt.learned import Learned, learned_parts
from visprompt.testing import conformance


class Shift(Learned):
    """A number that is learned and changes nothing."""

    name = "shift"
    acts_on: ClassVar[frozenset[str]] = frozenset({"pixels"})

    def make(self, model: vp.Model, generator: torch.Generator) -> nn.Module:
        return nn.ParameterDict({"number": nn.Parameter(torch.rand(2, generator=generator))})

    def edit(self, prompt: vp.VisualPrompt, model: vp.Model) -> vp.VisualPrompt:
        return prompt


class Drawn(Shift):
    """One that can be looked at."""

    def image(self) -> Image.Image:
        return Image.new("RGBA", (3, 2), (1, 2, 3, 255))


def model(name: str = "timm-vit") -> Any:
    return conformance.wrapped(name)[1]


def built(kind: type[Learned] = Shift, seed: int = 0) -> Any:
    prompter = kind()
    prompter.build(model(), seed=seed)
    return prompter


def test_building_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = built().state()["prompt.number"]
    torch.manual_seed(2)
    assert torch.equal(built().state()["prompt.number"], first)
    assert not torch.equal(built(seed=1).state()["prompt.number"], first)


def test_state_comes_back_and_what_does_not_fit_is_refused() -> None:
    one, two = built(), built(seed=1)
    two.load_state(one.state())
    assert torch.equal(two.state()["prompt.number"], one.state()["prompt.number"])
    with pytest.raises(vp.InvalidInputError, match="do not fit 'shift'"):
        two.load_state({"prompt.number": torch.zeros(3)})
    assert two.trainable().keys() == {"prompt"}


def test_restoring_makes_the_parameters_by_their_shapes() -> None:
    one, other = built(), Shift()
    other.restore(one.state(), {"backbone": one.backbone, "record": {"task": "nothing"}})
    assert torch.equal(other.state()["prompt.number"], one.state()["prompt.number"])
    assert other.record == {"task": "nothing"}
    assert other.backbone == one.backbone


def test_describing_says_which_weights() -> None:
    assert Shift().describe() == {"name": "shift", "options": {}}
    found = built().describe()
    assert found == built().describe()
    assert len(found["learned"]) == 16
    assert found["learned"] != built(seed=1).describe()["learned"]


def test_nothing_learned_and_another_model_are_refused() -> None:
    request = conformance.requests()[0]
    with pytest.raises(vp.InvalidInputError, match=r"has learned nothing yet.*'visprompt fit shift …'"):
        Shift().prompt(request, model())
    with pytest.raises(vp.UnsupportedError, match=r"was learned on .* is another model"):
        built().prompt(request, model("transformers-clip"))
    assert built().on(model()).name == "shift"


@pytest.mark.parametrize(("options", "off"), [({"prompts": 0}, True), ({"prompts": 1}, False)])
def test_switched_off_is_what_changes_nothing(options: dict[str, Any], off: bool) -> None:
    prompter: Any = vp.Prompter.from_name("vpt", **options)
    assert prompter.switched_off is off
    assert Shift().switched_off is False  # it has no such setting


def test_only_what_has_an_image_is_drawn(tmp_path: Path) -> None:
    built().sketch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert built().sketch_name() == ""
    drawn = built(Drawn)
    drawn.sketch(tmp_path)
    drawn.sketch(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-patch.png", "patch.png"]
    with Image.open(tmp_path / drawn.sketch_name(2)) as image:
        assert image.tobytes() == drawn.image().tobytes()


def test_learned_parts_of_joined_strategies() -> None:
    one, two = built(), built(seed=1)
    circle = vp.Prompter.from_name("circle")
    assert learned_parts(circle) == []
    assert learned_parts(one) == [one]
    assert learned_parts(circle + one + two) == [one, two]


def test_an_error_in_training_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from visprompt.training import fit

    def fail(prompter: Any, *_: Any, **__: Any) -> None:
        prompter.parameters, prompter.record = None, {"half": True}
        raise KeyboardInterrupt

    prompter = built()
    before = prompter.parameters
    monkeypatch.setattr(fit, "fit", fail)
    with pytest.raises(KeyboardInterrupt):
        prompter.fit(model(), "nowhere")
    assert prompter.parameters is before
    assert prompter.record == {}
