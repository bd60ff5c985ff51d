"""A plug-in and a script of 0.4.0 give what 0.4.0 gave, and say which of their names have changed.

`plugin_0_4_0/expected.json` was written by 0.4.0 itself (`python -m visprompt_lantern`).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import visprompt as vp
from visprompt import registry

PLUGIN = Path(__file__).parent / "plugin_0_4_0"
EXPECTED: dict[str, Any] = json.loads((PLUGIN / "expected.json").read_text(encoding="utf-8"))

#: old names that the plug-in uses, as the warnings have them
OLD_NAMES = {
    "attributes": [
        "VisualPrompt: the attribute 'picture'",
        "Request: the attribute 'picture'",
        "Request: the attribute 'pictures'",
        "AttentionMap: the attribute 'picture'",
        "Labelled: the attribute 'picture'",
        "Question: the attribute 'pictures'",
        "GainMeter: the attribute 'pictures'",
        "Scorer: the attribute 'pointing'",
    ],
    "parameters": [
        "VisualPrompt.with_: the parameter 'picture'",
        "VisualPrompt.__init__: the parameter 'picture'",
        "fit_image: the parameter 'picture'",
        "show_image: the parameter 'picture'",
        "image_pair: the parameter 'picture'",
        "tint: the parameter 'picture'",
        "unlabelled: the parameter 'pictures'",
        "evaluate: the parameter 'pictures'",
        "evaluate: the parameter 'pointing'",
        "Scorer.__init__: the parameter 'pointing'",
        "GainMeter.__init__: the parameter 'pictures'",
    ],
    "values": ["format of data: the value 'pictures'", "Labelled: kind: the value 'pictures'"],
    "methods": ["Counted: the method 'pictures'"],
    "names": [
        "visprompt.geometry.fit 'fit_picture'",
        "visprompt.plots 'show_picture'",
        "visprompt.plots 'picture_pair'",
        "visprompt.tasks 'Pointing'",
        "visprompt.tasks.condition 'Pointer'",
        "visprompt.tasks.data_sources 'scene_pictures'",
        "visprompt.data.scenes.answers 'ScenePicture'",
        "visprompt.data.referring.reclip 'picture_name'",
        "visprompt.testing.toy_dataset 'blotches'",
        "visprompt.persistence.prompt_files 'write_whole'",
        "visprompt.persistence.prompt_files 'save_prompter'",
        "visprompt.persistence.prompt_files 'load_prompter'",
        "generated has moved to visprompt.data.scenes.unlabelled",
    ],
    "modules": [
        "visprompt.images has moved",
        "visprompt.overlay has moved",
        "visprompt.geometry_fit has moved",
        "visprompt.saving has moved",
        "visprompt.tasks.pointing has moved",
        "visprompt.tasks.sources has moved",
        "visprompt.data.reclip has moved",
        "visprompt.data.scenes_answers has moved",
        "visprompt.data.unlabelled has moved",
        "visprompt.testing.blotches has moved",
        "visprompt.training.classification has moved",
        "visprompt.training.objective has moved",
    ],
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plug-in on the path, with the entry points that pip would write; gives a folder for its files."""
    from visprompt.utils.moved_modules import MOVED

    folder = tmp_path_factory.mktemp("plugin")
    known = {old: sys.modules.pop(old) for old in [f"visprompt.{name}" for name in MOVED] if old in sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        from visprompt_lantern.__main__ import write_distribution

        (folder / "site").mkdir()
        write_distribution(folder / "site")
        patch.syspath_prepend(str(folder / "site"))
        registry.refresh()
        yield folder
    registry.refresh()
    sys.modules.update(known)
    for name in [name for name in sys.modules if name.partition(".")[0] == "visprompt_lantern"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(plugin: Path) -> tuple[dict[str, Any], list[warnings.WarningMessage]]:
    """What the plug-in's functions give, and the warnings."""
    work = plugin / "work"
    work.mkdir()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DeprecationWarning)
        from visprompt_lantern.report import everything

        return everything(work), [one for one in said if issubclass(one.category, DeprecationWarning)]


def near(value: Any) -> Any:
    """The same with floats to compare up to rounding."""
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    if isinstance(value, list):
        return [near(one) for one in value]
    return pytest.approx(value, rel=1e-3, abs=2e-4) if isinstance(value, float) else value


@pytest.mark.parametrize("part", sorted(EXPECTED))
def test_it_gives_what_0_4_0_gave(part: str, run: tuple[dict[str, Any], Any]) -> None:
    assert json.loads(json.dumps(run[0][part])) == near(EXPECTED[part])


@pytest.mark.parametrize("kind", sorted(OLD_NAMES))
def test_every_old_name_is_warned_of_where_it_is_used(kind: str, run: tuple[Any, list[Any]]) -> None:
    for name in OLD_NAMES[kind]:
        found = [one for one in run[1] if str(one.message).startswith(name)]
        assert found, f"no warning begins with {name}"
        assert {Path(one.filename).parent.name for one in found} == {"visprompt_lantern"}, name


def test_no_warning_comes_from_the_package_itself(run: tuple[Any, list[Any]]) -> None:
    package = Path(vp.__file__).parent
    ours = [one for one in run[1] if package in Path(one.filename).parents]
    assert not ours, ours[0]


@pytest.mark.usefixtures("plugin")
def test_todays_names_give_the_same() -> None:
    from visprompt_lantern.report import photo, pixels_sum, small_model

    from visprompt.geometry import fit_image
    from visprompt.imaging.load import load_image
    from visprompt.imaging.tint import tint

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        request = vp.Request(photo(), region=vp.Box(16, 12, 48, 36))
        made = vp.VisualPrompt(image=photo())
        loaded = load_image(np.asarray(photo()))
        fitted, scale_xy, offset_xy = fit_image(image=loaded, fit="pad", input_hw=(32, 32))
        found = {
            "request.picture": pixels_sum(request.pil_image),
            "request.pictures": [pixels_sum(one) for one in request.pil_images],
            "VisualPrompt": pixels_sum(made.image),
            "with_": pixels_sum(made.with_(image=photo()).image),
        }
        assert [pixels_sum(fitted), *scale_xy, *offset_xy] == EXPECTED["pictures"]["fit_picture"]
        tinted = tint(image=loaded, values=np.eye(64)[:48], rgb=(255, 0, 0))
        assert pixels_sum(tinted) == EXPECTED["pictures"]["tint"]
    assert found == {name: EXPECTED["prompts"][name] for name in found}
    (prompt,) = vp.Prompter.from_name("lantern", preset="night").prompt(request, small_model())
    assert pixels_sum(prompt.image) == EXPECTED["prompts"]["prompt.picture"]
