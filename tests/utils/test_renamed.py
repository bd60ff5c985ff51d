"""Old names are read with a warning that says the new one."""

from __future__ import annotations

import dataclasses
import types
import warnings

import pytest

from visprompt.utils.renamed import (
    renamed_attributes,
    renamed_hooks,
    renamed_keys,
    renamed_names,
    renamed_parameters,
    renamed_value,
)


@renamed_parameters(picture="image")
def doubled(image: int, times: int = 2) -> int:
    """Twice."""
    return image * times


@renamed_attributes(picture="image", look="show")
@dataclasses.dataclass(frozen=True)
class Pair:
    """A value and what shows it."""

    image: int
    other: int = 0

    def show(self) -> int:
        """The value."""
        return self.image


def test_a_parameter() -> None:
    with pytest.warns(DeprecationWarning, match=r"doubled: the parameter 'picture' is called 'image' now") as said:
        assert doubled(picture=3, times=3) == 9
    assert said[0].filename == __file__
    with pytest.raises(TypeError, match="twice"):
        doubled(3, image=3, picture=3)
    assert doubled.__doc__ == "Twice."


def test_new_names_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doubled(3) == doubled(image=3) == 6
        assert dataclasses.replace(Pair(1), image=2).show() == 2
        assert renamed_keys({"images": 1}, {"pictures": "images"}, "suite") == {"images": 1}
        assert renamed_value("images", {"pictures": "images"}, "format") == "images"


def test_attributes_methods_and_the_constructor() -> None:
    with pytest.warns(DeprecationWarning, match="the attribute 'picture' is called 'image' now") as said:
        assert Pair(4).picture == 4  # type: ignore[attr-defined]
    assert said[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="'look' is called 'show'"):
        assert Pair(4).look() == 4  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="the parameter 'picture'"):
        assert Pair(picture=4, other=1) == Pair(4, 1)  # type: ignore[call-arg]


@renamed_hooks(look="show")
class Shown:
    """A class that others derive from."""

    def show(self, times: int) -> str:
        """Says it."""
        return "base " * times

    def twice(self) -> str:
        """Calls the method by its new name, as the package does."""
        return self.show(2)


def test_an_override_by_the_old_name_is_called() -> None:
    with pytest.warns(DeprecationWarning, match="Mine: the method 'look' is called 'show' now"):

        class Mine(Shown):
            def look(self, times: int) -> str:
                return "mine " + super().look(times)  # type: ignore[misc]

    with pytest.warns(DeprecationWarning, match="'look' is called 'show'"):
        assert Mine().twice() == "mine base base "
    with pytest.warns(DeprecationWarning, match="'look' is called 'show'"):
        assert Shown().look(1) == "base "  # type: ignore[attr-defined]


def test_an_override_by_the_new_name_is_called_by_the_old_one_too() -> None:
    class Mine(Shown):
        def show(self, times: int) -> str:
            return "new " * times

    assert Mine().twice() == "new new "
    with pytest.warns(DeprecationWarning, match="'look' is called 'show'"):
        assert Mine().look(1) == "new "  # type: ignore[attr-defined]


def test_a_name_that_went_to_another_module() -> None:
    names = {"Ensemble": "prompter.Ensemble", "load": "prompter.Prompter.from_pretrained"}
    find = renamed_names("some_module", names, {})
    from visprompt.prompter import Ensemble, Prompter

    with pytest.warns(DeprecationWarning, match=r"'Ensemble' is called 'visprompt\.prompter\.Ensemble' now"):
        assert find("Ensemble") is Ensemble
    with pytest.warns(DeprecationWarning, match="from_pretrained"):
        assert find("load") is Prompter.from_pretrained


def test_a_name_of_a_module() -> None:
    module = types.ModuleType("some_module")
    module.__dict__["new_name"] = 1
    module.__dict__["__getattr__"] = renamed_names("some_module", {"old_name": "new_name"}, module.__dict__)
    with pytest.warns(DeprecationWarning, match="some_module 'old_name' is called 'new_name' now"):
        assert module.old_name == 1
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other


def test_keys_of_a_file() -> None:
    names = {"pictures": "images"}
    with pytest.warns(DeprecationWarning, match="my suite: the key 'pictures' is called 'images' now"):
        assert renamed_keys({"kind": 1, "pictures": 2}, names, "my suite") == {"kind": 1, "images": 2}
    assert renamed_keys({"images": 1, "pictures": 2}, names, "my suite") == {"images": 1, "pictures": 2}


def test_a_value() -> None:
    with pytest.warns(DeprecationWarning, match="format: the value 'pictures' is called 'images' now"):
        assert renamed_value("pictures", {"pictures": "images"}, "format") == "images"
    assert renamed_value(3, {"pictures": "images"}, "format") == 3
