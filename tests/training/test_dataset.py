"""Labelled images as a model's inputs: labels land where pixels land, and chance depends on nothing but the key."""

import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import quarter_mask
from PIL import Image

from visprompt.data.labelled.dataset import Labelled
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.models.preprocessing import ImageReader
from visprompt.training.dataset import (
    AUGMENTS,
    ImageDataset,
    UnreadableItem,
    collate,
    crop_window,
    shift_window,
)

#: one model per way in which processors fit images
MODELS = ("transformers-clip", "transformers-siglip", "transformers-deit", "timm-vit", "open-clip-vit")
COLOURS = np.array([(230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 20)], np.uint8)


def painted(wh: tuple[int, int]) -> Image.Image:
    return Image.fromarray(COLOURS[quarter_mask(wh)])


def quarters(*sizes: tuple[int, int], **more: Any) -> Labelled:
    items = [(partial(painted, wh), partial(quarter_mask, wh)) for wh in sizes]
    return Labelled(items, ["a", "b", "c", "d"], kind="segmentation", **more)


def classified(count: int = 6, wh: tuple[int, int] = (90, 70), **more: Any) -> Labelled:
    return Labelled([(partial(painted, (wh[0] + n, wh[1])), n % 2) for n in range(count)], ["a", "b"], **more)


def classes_seen(reader: ImageReader, pixels: torch.Tensor) -> np.ndarray:
    """The class of every pixel by its colour, and -1 for colours of none (padding)."""
    solid = [
        reader.one(Image.new("RGB", (64, 64), tuple(int(v) for v in colour)), "squash")["pixel_values"].mean((1, 2))
        for colour in COLOURS
    ]
    distance = torch.stack([(pixels - colour[:, None, None]).abs().amax(0) for colour in solid])
    nearest, found = distance.min(0)
    return torch.where(nearest < 0.5, found, -1).numpy()


class TestDense:
    @pytest.mark.parametrize("wh", [(120, 80), (70, 110), (64, 64)])
    @pytest.mark.parametrize("fit", ["model", "pad", "squash"])
    @pytest.mark.parametrize("augment", AUGMENTS)
    @pytest.mark.parametrize("name", MODELS)
    def test_labels_lie_where_the_pixels_lie(
        self, readers: dict[str, ImageReader], name: str, augment: Any, fit: Any, wh: tuple[int, int]
    ) -> None:
        images = ImageDataset(quarters(wh), readers[name], fit=fit, augment=augment, dense=True)
        sample = images[0, 3]
        assert sample is not None
        label = sample["label"]
        assert label.dtype == torch.int64
        assert label.shape == sample["pixel_values"].shape[1:]
        seen = classes_seen(readers[name], sample["pixel_values"])
        told = label.numpy()
        # Colours mix along two borders; everywhere else the label is the colour's, and padding is no class.
        decided = seen >= 0
        assert (seen[decided] == told[decided]).mean() > 0.97
        assert decided.mean() > 0.3
        assert set(np.unique(told)) <= {0, 1, 2, 3, 255}

    def test_padding_is_ignored(self, reader: ImageReader) -> None:
        for ignore in (255, 7):
            sample = ImageDataset(quarters((128, 64), ignore_index=ignore), reader, fit="pad", dense=True)[0]
            assert sample is not None
            label = sample["label"]
            assert (label == ignore).float().mean() == pytest.approx(0.5)
            assert (label[0] == ignore).all()
            assert (label[len(label) // 2] != ignore).all()

    def test_a_mask_of_another_size(self, reader: ImageReader) -> None:
        data = Labelled([(painted((60, 40)), quarter_mask((40, 60)))], ["a", "b", "c", "d"], kind="segmentation")
        with pytest.raises(UnreadableItem, match="EXIF"):
            ImageDataset(data, reader, dense=True)[0]

    def test_dense_goes_with_masks(self, reader: ImageReader) -> None:
        with pytest.raises(InvalidInputError, match="masks: dense=True"):
            ImageDataset(quarters((60, 40)), reader)
        with pytest.raises(InvalidInputError, match="labels of classification: dense=False"):
            ImageDataset(classified(), reader, dense=True)


class TestAugmentation:
    def test_depends_on_seed_epoch_and_index_alone(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(wh=(90, 70)), reader, augment="crop", seed=5)
        again = ImageDataset(classified(wh=(90, 70)), reader, augment="crop", seed=5)
        later = [again[n, 2] for n in reversed(range(4))][::-1]
        for n in range(4):
            first, same = images[n, 2], later[n]
            assert first is not None
            assert same is not None
            assert torch.equal(first["pixel_values"], same["pixel_values"])
        other_seed = ImageDataset(classified(wh=(90, 70)), reader, augment="crop", seed=6)
        pixels = [sample["pixel_values"] for sample in (images[0, 2], images[0, 3], other_seed[0, 2]) if sample]
        assert not torch.equal(pixels[0], pixels[1])
        assert not torch.equal(pixels[0], pixels[2])

    def test_none_is_the_reader_itself(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(), reader)
        for epoch in (0, 1, 7):
            sample = images[1, epoch]
            assert sample is not None
            assert torch.equal(sample["pixel_values"], reader.one(classified().image(1), "model")["pixel_values"])
            assert (sample["label"], sample["index"], sample["pixel_values"].dtype) == (1, 1, torch.float32)

    def test_flip_mirrors_half_of_them(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(1, (64, 64)), reader, augment="flip")
        plain = reader.one(painted((64, 64)), "model")["pixel_values"]
        mirrored = reader.one(painted((64, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "model")["pixel_values"]
        counts = [0, 0]
        for epoch in range(60):
            sample = images[0, epoch]
            assert sample is not None
            counts[0] += torch.equal(sample["pixel_values"], plain)
            counts[1] += torch.equal(sample["pixel_values"], mirrored)
        assert sum(counts) == 60
        assert 18 <= counts[0] <= 42

    def test_crop_windows(self) -> None:
        for wh in ((120, 80), (30, 200), (17, 16), (1, 1)):
            shares, ratios = [], []
            for seed in range(200):
                left, top, right, bottom = crop_window(wh, np.random.Generator(np.random.PCG64(seed)))
                assert 0 <= left < right <= wh[0]
                assert 0 <= top < bottom <= wh[1]
                shares.append((right - left) * (bottom - top) / (wh[0] * wh[1]))
                ratios.append((right - left) / (bottom - top))
            if wh == (120, 80):
                assert 0.19 < min(shares) < 0.25 < 0.8 < max(shares) <= 1
                assert 0.73 < min(ratios) < 0.8 < 1.25 < max(ratios) < 1.36

    def test_shift_windows(self) -> None:
        found = {shift_window((160, 100), (32, 32), np.random.Generator(np.random.PCG64(seed))) for seed in range(50)}
        assert {(right - left, bottom - top) for left, top, right, bottom in found} == {(88, 88)}
        assert max(right for _, _, right, _ in found) <= 160
        assert max(bottom for _, _, _, bottom in found) <= 100
        assert len(found) > 40

    def test_images_as_small_as_they_come(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(1, (16, 16)), reader, augment="crop")
        assert all(images[0, epoch] is not None for epoch in range(20))

    def test_wrong_options(self, reader: ImageReader) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'crop'"):
            ImageDataset(classified(), reader, augment="crops")  # type: ignore[arg-type]
        with pytest.raises(UnknownNameError, match="Known: model, pad, squash"):
            ImageDataset(classified(), reader, fit="stretch")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="a seed is 0 or more"):
            ImageDataset(classified(), reader, seed=-1)


class Counting(Labelled):
    """Counts what is opened."""

    opened = 0

    def image(self, index: int) -> Image.Image:
        type(self).opened += 1
        return super().image(index)


class TestCache:
    def counted(self, reader: ImageReader, **more: Any) -> int:
        Counting.opened = 0
        data = Counting([(partial(painted, (64, 64)), 0)] * 4, ["a", "b"])
        images = ImageDataset(data, reader, **more)
        samples = [images[n, epoch] for epoch in range(3) for n in range(4)]
        assert all(torch.equal(sample["pixel_values"], samples[0]["pixel_values"]) for sample in samples)  # type: ignore[index]
        return Counting.opened

    def test_every_image_is_opened_once(self, reader: ImageReader) -> None:
        assert self.counted(reader) == 4

    def test_up_to_a_size(self, reader: ImageReader) -> None:
        side = reader.geometry((64, 64), "model").tiles[0].input_hw[0]
        one = 3 * side * side * 4 / 2**20
        assert self.counted(reader, cache_mb=2.5 * one) == 2 + 3 * 2
        assert self.counted(reader, cache_mb=0) == 12

    def test_not_what_is_drawn_at_random(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(), reader, augment="flip")
        assert images[0, 0] is not None
        assert not images._cache

    def test_a_batch_does_not_change_it(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(), reader)
        batch = collate([images[0], images[1]])
        before = images[0]
        batch["pixel_values"].zero_()
        assert before is not None
        assert before["pixel_values"].abs().sum() > 0


class TestFailures:
    def data(self, folder: Path, **more: Any) -> Labelled:
        painted((40, 40)).save(folder / "good.png")
        (folder / "bad.png").write_text("no image")
        return Labelled([(folder / "good.png", 0), (folder / "bad.png", 1)], ["a", "b"], **more)

    def test_refused(self, reader: ImageReader, tmp_path: Path) -> None:
        images = ImageDataset(self.data(tmp_path), reader)
        with pytest.raises(UnreadableItem, match=r"bad\.png' is not an image"):
            images[1, 0]

    def test_skipped_and_named_once(self, reader: ImageReader, tmp_path: Path) -> None:
        images = ImageDataset(self.data(tmp_path, on_bad="skip"), reader)
        with pytest.warns(UserWarning, match=r"left out of training: .*bad\.png"):
            assert images[1, 0] is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = collate([images[0, 1], images[1, 1]])
        assert batch["index"].tolist() == [0]

    def test_images_that_no_encoder_takes(self, reader: ImageReader) -> None:
        data = Labelled([(Image.new("RGB", (1, 1)), 0)], ["a", "b"], name="dots")
        with pytest.raises(UnreadableItem, match=r"image 0 of dots: the image is 1×1 pixels"):
            ImageDataset(data, reader)[0]

    def test_one_sentence_out_of_a_process(self, reader: ImageReader, tmp_path: Path) -> None:
        loader: Any = torch.utils.data.DataLoader(
            ImageDataset(self.data(tmp_path), reader),
            batch_sampler=[[(1, 0)]],  # type: ignore[arg-type]
            num_workers=1,
            collate_fn=collate,
            multiprocessing_context="fork",
        )
        with pytest.raises(UnreadableItem) as caught:
            list(loader)
        assert "Traceback" not in str(caught.value)
        assert str(caught.value).endswith("open it and check.")


class TestCollate:
    def test_classes(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(wh=(64, 64)), reader)
        batch = collate([images[n, 0] for n in (3, 1, 4)])
        assert batch["pixel_values"].shape[0] == 3
        assert (batch["index"].tolist(), batch["label"].tolist()) == ([3, 1, 4], [1, 1, 0])
        assert batch["label"].dtype == batch["index"].dtype == torch.int64

    def test_masks_and_answers(self, reader: ImageReader) -> None:
        images = ImageDataset(quarters((64, 64), (80, 64)), reader, dense=True)
        assert collate([images[0], images[1]])["label"].ndim == 3
        asked = Labelled([(painted((64, 64)), ("q", "a"))] * 2, (), kind="answers")
        answers = ImageDataset(asked, reader)
        assert collate([answers[0], answers[1]])["label"] == [("q", "a"), ("q", "a")]

    def test_nothing(self) -> None:
        batch = collate([None, None])
        assert list(batch) == ["index"]
        assert batch["index"].shape == (0,)

    def test_inputs_of_different_sizes(self) -> None:
        samples = [{"pixel_values": torch.zeros(3, 2, n), "label": 0, "index": 0} for n in (2, 3)]
        with pytest.raises(InvalidInputError, match=r"different sizes, \(3, 2, 2\) and \(3, 2, 3\)"):
            collate(samples)


class TestProcesses:
    KEYS = [[(0, 1), (3, 1)], [(1, 1), (2, 1)], [(5, 1), (4, 1)]]

    def batches(self, images: ImageDataset, workers: int) -> list[torch.Tensor]:
        loader: Any = torch.utils.data.DataLoader(
            images,
            batch_sampler=self.KEYS,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            multiprocessing_context="fork" if workers else None,
        )
        return [batch["pixel_values"] for batch in loader]

    @pytest.mark.parametrize("augment", ["none", "crop"])
    def test_their_number_changes_nothing(self, reader: ImageReader, augment: Any) -> None:
        images = ImageDataset(classified(wh=(64, 64)), reader, augment=augment, seed=1)
        alone, together = self.batches(images, 0), self.batches(images, 2)
        assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))

    def test_what_is_sent_to_a_process(self, readers: dict[str, ImageReader]) -> None:
        for reader in readers.values():
            images = ImageDataset(classified(wh=(64, 64)), reader, augment="crop")
            assert ImageDataset(classified(), reader)[0] is not None
            again: ImageDataset = pickle.loads(pickle.dumps(images))
            first, second = images[2, 1], again[2, 1]
            assert first is not None
            assert second is not None
            assert torch.equal(first["pixel_values"], second["pixel_values"])

    def test_the_cache_stays_behind(self, reader: ImageReader) -> None:
        images = ImageDataset(classified(wh=(64, 64)), reader)
        assert images[0] is not None
        assert images._cache
        assert not pickle.loads(pickle.dumps(images))._cache

    def test_a_reader_that_cannot_be_sent(self) -> None:
        closed: Any = ImageReader(None, lambda image: {}, lambda inputs: torch.zeros(3, 2, 2), (2, 2))
        with pytest.raises(InvalidInputError, match="num_workers=0, or with the start method"):
            pickle.dumps(ImageDataset(classified(), closed))
