"""Figures of learned prompts say what the numbers say; the tokens' own attention is what the model computes."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.cli.inspect_attention import looks_of
from visprompt.plots import base as plots
from visprompt.plots.learned import (
    BlockLooks,
    HasBlocks,
    Look,
    attention_figure,
    blocks_figure,
    curve_figure,
    curve_of,
    tokens_figure,
)
from visprompt.plots.segmentation import class_colours, mask_figure, mask_png
from visprompt.runner.token_attention import token_looks

pytest.importorskip("matplotlib")
NOTHING = {"gate": None, "temperature": None, "selection": None, "tokens": None}


@pytest.fixture(scope="module")
def model() -> Any:
    return vp.load_model("bundled:scenes-clip")


def made(model: Any, name: str, **options: Any) -> Any:
    prompter = vp.Prompter.from_name(name, **options)
    prompter.build(model)  # type: ignore[attr-defined]
    return prompter


def image() -> Image.Image:
    from visprompt.data.scenes.world import scene

    return scene(3, hard=True).pil


def axes_titles(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]


class TestBlocks:
    def test_gates_temperatures_and_selection(self, model: Any) -> None:
        prompter = made(model, "gated", prompts=2)
        assert isinstance(prompter, HasBlocks)
        figure = blocks_figure(prompter.blocks_table(), "a $title$")
        assert figure is not None
        assert [title.partition(":")[0] for title in axes_titles(figure)] == [
            "Selection ratio",
            "Gates",
            "Temperatures",
        ]
        selection, gates, temperatures = figure.axes
        assert sum(bar.get_height() for bar in selection.patches) == pytest.approx(1)
        assert [bar.get_height() for bar in gates.patches] == pytest.approx([0.00669] * 5, abs=1e-4)
        assert len(temperatures.patches) == 6
        plots.to_png(figure)

    def test_a_temperature_below_one_hangs(self) -> None:
        rows = [{**NOTHING, "block": block, "temperature": value} for block, value in enumerate((0.5, 1.0, 2.0))]
        figure = blocks_figure(rows)
        assert figure is not None
        bars = [(bar.get_y(), bar.get_height()) for bar in figure.axes[0].patches]
        assert bars == [(1.0, -0.5), (1.0, 0.0), (1.0, 1.0)]

    def test_only_what_differs_by_block_is_drawn(self, model: Any) -> None:
        assert blocks_figure(made(model, "vpt", prompts=2).blocks_table()) is None
        assert blocks_figure([]) is None
        deep = blocks_figure(made(model, "vpt", prompts=2, deep=True).blocks_table())
        assert deep is not None
        assert len(deep.axes) == 1

    def test_many_blocks(self) -> None:
        rows = [{**NOTHING, "block": block, "gate": 0.5} for block in range(48)]
        figure = blocks_figure(rows)
        assert figure is not None
        assert len(figure.axes[0].get_xticks()) == 24

    @pytest.mark.parametrize("depth", [1, 12])
    def test_tokens(self, depth: int) -> None:
        norms = np.random.default_rng(0).uniform(0, 1, (depth, 20))
        assert plots.to_png(tokens_figure(norms, 2)).startswith(b"\x89PNG")


class TestCurves:
    ROWS = [
        {"epoch": 1, "lr": 0.1, "train": {"loss": 2.0}, "validation": {"loss": 1.9, "accuracy": 0.5}, "best": True},
        {"epoch": 2, "lr": 0.05, "train": {"loss": 1.0}},
        {"epoch": 3, "lr": 0.0, "train": {"loss": None}, "validation": {"loss": 1.5, "accuracy": 0.4}, "best": False},
    ]

    def test_points(self) -> None:
        curve = curve_of(self.ROWS, "accuracy")
        assert curve.train_loss == [(1.0, 2.0), (2.0, 1.0)]
        assert curve.metric == [(1.0, 0.5), (3.0, 0.4)]
        assert (curve.best, curve.over) == (1.0, "epoch")
        figure = curve_figure(curve, "a run")
        assert figure is not None
        assert "best: 50 %, epoch 1" in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]

    def test_what_is_not_there_is_not_drawn(self) -> None:
        assert curve_figure(curve_of([])) is None
        only_loss = curve_figure(curve_of([{"epoch": 1, "train": {"loss": 1.0}}]))
        assert only_loss is not None
        assert len(only_loss.axes) == 1
        by_loss = curve_of([{"epoch": 1, "validation": {"loss": 1.0, "n": 3}, "best": True}], "loss")
        assert by_loss.metric == []
        other = curve_figure(curve_of(self.ROWS, "loss"))
        assert other is not None
        assert "best by loss: 50 %, epoch 1" in [text.get_text() for text in other.axes[1].get_legend().get_texts()]
        assert curve_figure(by_loss) is not None


class TestAttention:
    @pytest.mark.parametrize(("name", "options"), [("gated", {}), ("vpt", {"deep": True}), ("vpt", {"first_block": 3})])
    def test_rows_and_columns_are_shares_of_one(self, model: Any, name: str, options: dict[str, Any]) -> None:
        prompter = made(model, name, prompts=4, **options)
        (prompt,) = prompter.prompt(vp.Request(image()), model)
        found = token_looks(model, prompt, range(6))
        assert [look.block for look in found] == list(range(options.get("first_block", 0), 6))
        for look in found:
            assert look.patches.shape == (4, 64)
            # The rest falls on the model's own class token.
            assert 0 < look.patches.sum(1).mean() + look.prompts < 1
            assert 0 < look.readout < 1

    def test_the_readouts_row_agrees_with_the_runners(self, model: Any) -> None:
        """What the readout gives to patches, tokens and itself is everything."""
        prompter = made(model, "vpt", prompts=4)
        request = vp.Request(image())
        (prompt,) = prompter.prompt(request, model)
        on_patches = vp.Runner(model, prompter).attention(request, [5])[0].values.mean(1).sum()
        assert 0.5 < float(on_patches) + token_looks(model, prompt, [5])[0].readout <= 1

    def test_against_the_models_own_attention(self, model: Any) -> None:
        """The last block's rows from the hidden states, in plain tensor code."""
        prompter = made(model, "vpt", prompts=3)
        request = vp.Request(image())
        (prompt,) = prompter.prompt(request, model)
        tower, kept = model.tower, {}
        block = tower.blocks[-1]
        handle = block.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: kept.update(hidden=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        try:
            (look,) = token_looks(model, prompt, [-1])
        finally:
            handle.remove()
        hidden, attention = kept["hidden"][0], block.self_attn
        heads = tower.sites[-1].heads
        with torch.no_grad():
            query, key = (
                layer(hidden).unflatten(-1, (heads, -1)).transpose(0, 1)
                for layer in (attention.q_proj, attention.k_proj)
            )
            shares = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1).mean(0)
        assert look.patches == pytest.approx(shares[1:4, 4:].numpy(), abs=1e-5)
        assert look.readout == pytest.approx(float(shares[0, 1:4].sum()), abs=1e-5)

    def test_nothing_remains(self, model: Any) -> None:
        request = vp.Request(image())
        before = model.encode(request.units()).embeddings
        (prompt,) = made(model, "gated", prompts=4).prompt(request, model)
        token_looks(model, prompt, [0, 5])
        assert torch.equal(model.encode(request.units()).embeddings, before)

    def test_figure(self, model: Any) -> None:
        prompter = made(model, "gated", prompts=4, first_block=3)
        looks, prompted = looks_of(model, prompter, image(), [0, -1])
        assert np.array_equal(np.asarray(prompted), np.asarray(image()))
        assert [look.block for look in looks] == [0, 5]
        assert looks[0].tokens is None
        assert looks[1].on_tokens is not None
        assert float(np.nanmean(looks[1].before.values)) == pytest.approx(1, abs=0.02)
        figure = attention_figure(image(), looks, prompter.name, "an image")
        titles = axes_titles(figure)
        assert "block 0" in titles[1]
        assert any("on tokens" in title for title in titles)
        plots.to_png(figure)

    def test_what_the_model_does_not_see_is_left_out(self, model: Any) -> None:
        wide = Image.new("RGB", (128, 64), "grey")
        looks, _ = looks_of(model, made(model, "vpt", prompts=2), wide, [-1])
        assert looks[0].before.values.shape == (64, 128)
        assert np.isnan(looks[0].before.values[:, :30]).all()
        assert np.isfinite(looks[0].before.values[:, 40:90]).all()

    def test_a_strategy_that_paints(self, model: Any) -> None:
        looks, prompted = looks_of(model, vp.Prompter.from_name("circle"), image(), [-1], vp.Box(8, 8, 40, 40))
        assert looks[0].tokens is None
        assert prompted.size == (64, 64)
        figure = attention_figure(image(), looks, "circle", "", (8, 8, 40, 40), prompted)
        assert len(figure.axes) == 2 * 2 + 1
        smaller = attention_figure(image(), looks, "crop", "", (8, 8, 40, 40), prompted.crop((8, 8, 40, 40)))
        assert [len(axes.patches) for axes in smaller.axes[:4]] == [2, 2, 0, 0]

    def test_without_tokens(self) -> None:
        flat = Look(np.ones((2, 2)), 0.9)
        figure = attention_figure(image(), [BlockLooks(0, flat, flat)], "x")
        assert len(figure.axes) == 2 * 2 + 1


class TestMasks:
    def test_png_keeps_the_numbers(self) -> None:
        import io

        mask = np.array([[0, 1], [2, 255]], dtype=np.uint8)
        read = Image.open(io.BytesIO(mask_png(mask, ("background", "cat", "dog"))))
        assert np.array_equal(np.asarray(read), mask)
        assert read.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
        wide = np.array([[0, 300]], dtype=np.uint16)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask_png(wide, ["x"] * 301)))), wide)

    def test_colours_differ(self) -> None:
        colours = class_colours([str(number) for number in range(40)])
        assert len({tuple(one) for one in colours}) == 40
        assert tuple(class_colours(["void", "cat"])[0]) == (170, 170, 170)

    def test_legend_names_what_is_there(self) -> None:
        mask = np.array([[0, 0], [2, 255]], dtype=np.uint8)
        figure = mask_figure(Image.new("RGB", (2, 2)), mask, ("background", "cat", "dog"), "two by two")
        legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
        assert legend == ["background, 66.7%", "dog, 33.3%", "not seen by the model, 25.0%"]
