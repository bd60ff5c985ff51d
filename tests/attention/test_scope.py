"""A scope installs hooks, acts in its own thread only, and removes everything on exit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import visprompt as vp
from visprompt.attention import compile_programs, open_scope
from visprompt.attention.scope import Enough, Scope, current_scope, is_open_on
from visprompt.testing.tiny import tiny

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.fixture(scope="module")
def hooked() -> vp.Model:
    """A model whose attention is reached through hooks."""
    small = tiny("timm-vit-token")
    return vp.wrap(small.module, small.processor)


def warm(model: vp.Model) -> dict:
    patches = model.geometry(IMAGE.size).num_patches
    return compile_programs(model.tower, [(vp.AttentionEdit(temperature=2.0),)], [patches])


def test_a_site_that_never_runs_is_an_error(clip: vp.Model) -> None:
    programs = compile_programs(clip.tower, [(vp.AttentionEdit(temperature=2.0),)], [64])
    with pytest.raises(vp.SiteNotReachedError, match="never ran"), open_scope(clip.tower, programs):
        clip.module.get_text_features(input_ids=torch.zeros(1, 4, dtype=torch.long))


def test_a_scope_is_undone_when_something_raises(clip: vp.Model) -> None:
    programs = compile_programs(clip.tower, [(vp.AttentionEdit(temperature=2.0),)], [64])
    module = clip.tower.sites[0].module
    inside = []
    with pytest.raises(RuntimeError, match="3 channels"), open_scope(clip.tower, programs):
        clip.parts.embed({"pixel_values": inside.append(current_scope(module)) or torch.zeros(1, 5, 8, 8)})
    assert inside[0] is not None
    assert current_scope(module) is None


def test_scopes_nest(clip: vp.Model) -> None:
    first, second = (
        open_scope(
            clip.tower, compile_programs(clip.tower, [(vp.AttentionEdit("vision", *blocks, temperature=2.0),)], [64])
        )
        for blocks in ((0, 2), (3, 3))
    )
    with torch.no_grad(), first:
        with second:
            assert current_scope(clip.tower.sites[3].module) is second
            assert current_scope(clip.tower.sites[0].module) is first
            clip.parts.embed(clip.parts.reader.inputs([(IMAGE, "model")], clip))
        assert current_scope(clip.tower.sites[3].module) is None
        assert current_scope(clip.tower.sites[0].module) is first


def test_hooks_are_there_inside_and_nowhere_else(hooked: vp.Model) -> None:
    assert hooks(hooked.module) == 0
    with torch.no_grad(), open_scope(hooked.tower, warm(hooked)):
        assert hooks(hooked.module) == 2 * hooked.num_blocks
        hooked.parts.embed(hooked.parts.reader.inputs([(IMAGE, "model")], hooked))
    assert hooks(hooked.module) == 0


def test_an_error_while_hooks_are_put_in_place_leaves_none(hooked: vp.Model) -> None:
    def install(scope: Scope) -> None:
        scope.hook_before(hooked.tower.sites[0].module, lambda *_: None)
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"), Scope(hooked.tower, warm(hooked), install):
        pass
    assert hooks(hooked.module) == 0
    assert not is_open_on(hooked.tower)


def test_another_thread_sees_none_of_it(hooked: vp.Model) -> None:
    inputs = hooked.parts.reader.inputs([(IMAGE, "model")], hooked)
    seen: list[object] = []

    def other() -> None:
        with torch.no_grad():
            seen.extend((is_open_on(hooked.tower), hooked.parts.embed(inputs)))

    with torch.no_grad():
        plain = hooked.parts.embed(inputs)
        with open_scope(hooked.tower, warm(hooked)) as scope:
            assert scope.is_active()
            assert is_open_on(hooked.tower)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            edited = hooked.parts.embed(inputs)
    assert seen[0] is False
    assert torch.equal(seen[1], plain)  # type: ignore[arg-type]
    assert not torch.equal(edited, plain)


def test_it_stops_as_soon_as_every_site_has_answered(hooked: vp.Model) -> None:
    patches = hooked.geometry(IMAGE.size).num_patches
    programs = compile_programs(hooked.tower, [()], [patches], read=[1])
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(hooked.tower.blocks)
    ]
    with torch.no_grad(), open_scope(hooked.tower, programs, stop=True) as scope, pytest.raises(Enough):
        hooked.parts.embed(hooked.parts.reader.inputs([(IMAGE, "model")], hooked))
    for handle in handles:
        handle.remove()
    assert ran == [0]
    (attention,) = scope.maps().values()
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, hooked.tower.sites[1].heads))
