"""Loading images: every supported kind of input, and every kind of broken input."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.imaging import load as images
from visprompt.imaging.load import load_image


def pixel(image: Image.Image, xy: tuple[int, int] = (0, 0)) -> Any:
    assert image.mode == "RGB"
    return image.getpixel(xy)


def test_path_str_and_pil_give_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    file = tmp_path / "image.png"
    image.save(file)
    for source in (file, str(file), image, np.asarray(image)):
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(image))


def test_upright_rgb_pil_image_is_not_copied() -> None:
    image = Image.new("RGB", (4, 4))
    assert load_image(image) is image


@pytest.mark.parametrize("as_file", [True, False])
def test_exif_rotation_is_applied(tmp_path: Path, as_file: bool) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste((255, 0, 0), (0, 0, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90° clockwise to show it
    file = tmp_path / "phone.jpg"
    image.save(file, exif=exif, quality=95)
    upright = load_image(file if as_file else Image.open(file))
    assert upright.size == (20, 40)
    assert pixel(upright, (10, 5))[0] > 200
    assert pixel(upright, (10, 35))[2] > 200


def test_transparency_is_laid_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    assert pixel(load_image(rgba)) == (255, 255, 255)
    assert pixel(load_image(rgba), (1, 0)) == (10, 20, 30)
    assert pixel(load_image(np.asarray(rgba))) == (255, 255, 255)
    assert pixel(load_image(Image.new("LA", (1, 1), (0, 128)))) == (127, 127, 127)
    assert pixel(load_image(rgba.convert("RGBa"))) == (255, 255, 255)


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert pixel(load_image(palette), (1, 0)) == (0, 0, 255)
    file = tmp_path / "see-through.png"
    palette.save(file, transparency=0)
    assert pixel(load_image(file)) == (255, 255, 255)
    assert pixel(load_image(file), (1, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I", 257 * 9, (9, 9, 9)),
        ("F", 1.0, (255, 255, 255)),
    ],
)
def test_modes(mode: str, value: Any, expected: tuple[int, int, int]) -> None:
    assert pixel(load_image(Image.new(mode, (3, 2), value))) == expected


def test_sixteen_bit_file(tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    Image.fromarray(np.full((3, 4), 257 * 200, dtype=np.uint16)).save(file)
    assert pixel(load_image(file)) == (200, 200, 200)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 9, np.uint8), (9, 9, 9)),
        (np.full((2, 3, 1), 9, np.uint8), (9, 9, 9)),
        (np.full((2, 3, 3), 9, np.uint8), (9, 9, 9)),
        (np.full((2, 3, 3), 257 * 9, np.uint16), (9, 9, 9)),
        (np.full((2, 3), True), (255, 255, 255)),
        (np.full((2, 3, 3), 0.5, np.float32), (128, 128, 128)),
        (np.full((2, 3, 3), 1.0005), (255, 255, 255)),
        (np.full((2, 3, 3), 200, np.int64), (200, 200, 200)),
    ],
)
def test_arrays(array: np.ndarray, expected: tuple[int, int, int]) -> None:
    image = load_image(array)
    assert image.size == (3, 2)
    assert pixel(image) == expected


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), np.nan), "48 NaN"),
        (np.full((4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((4, 4, 3), 37.5), r"floats are expected in \[0, 1\]; divide by 255"),
        (np.full((4, 4, 3), -0.5), r"expected in \[0, 1\]"),
        (np.full((4, 4, 3), 300, np.int32), "expected 0 to 255"),
        (np.full((4, 4), 1j), "dtype complex"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((3, 40, 50), np.uint8), "channels go last"),
        (np.zeros((4, 4, 2), np.uint8), "expected \\[H, W\\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "expected \\[H, W\\]"),
        (np.zeros(12, np.uint8), "expected \\[H, W\\]"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_image(array)


def test_missing_file_folder_and_empty_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no file .*nowhere\.jpg"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InvalidInputError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(InvalidInputError, match="empty path"):
        load_image("")


def test_text_file_called_jpg(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("not an image at all")
    with pytest.raises(InvalidInputError, match=r"notes\.jpg.* is not an image") as caught:
        load_image(file)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("suffix", "keep"), [("jpg", 0.5), ("png", 0.6), ("jpg", 0.01), ("gif", 0.3), ("tif", 0.3)])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / f"half.{suffix}"
    Image.fromarray(noise).save(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InvalidInputError, match=r"damaged or incomplete|is not an image"):
        load_image(file)


def test_zero_by_zero() -> None:
    with pytest.raises(InvalidInputError, match="0×0 pixels"):
        load_image(Image.new("RGB", (0, 0)))


def test_one_by_one_and_long_images_load() -> None:
    assert load_image(Image.new("L", (1, 1))).size == (1, 1)
    assert load_image(np.zeros((10, 20000), np.uint8)).size == (20000, 10)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bomb.png"
    Image.new("L", (100, 100)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidInputError, match="decompression bomb"):
        load_image(file)


def test_32_bit_values_beyond_16_bit() -> None:
    with pytest.raises(InvalidInputError, match="32-bit values"):
        load_image(Image.new("I", (2, 2), 70000))


@pytest.mark.parametrize("source", [None, 3, b"bytes", ["a.jpg"]])
def test_not_a_image_at_all(source: Any) -> None:
    with pytest.raises(InvalidInputError, match="an image cannot be a"):
        load_image(source)


def test_tensor_gets_a_hint() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InvalidInputError, match="permute"):
        load_image(torch.zeros(3, 4, 4))


class _Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
        body = buffer.getvalue() if self.path == "/image.png" else b"<html>"
        self.send_response(404 if self.path == "/gone" else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Writes no log lines."""


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_web_address_only_if_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="allow_url=True"):
        load_image(f"{address}/image.png")
    assert load_image(f"{address}/image.png", allow_url=True).size == (6, 4)
    with pytest.raises(InvalidInputError, match="could not be fetched"):
        load_image(f"{address}/gone", allow_url=True)
    with pytest.raises(InvalidInputError, match="is not an image"):
        load_image(f"{address}/page.html", allow_url=True)
    monkeypatch.setattr(images, "URL_MAX_BYTES", 16)
    with pytest.raises(InvalidInputError, match="larger than"):
        load_image(f"{address}/image.png", allow_url=True)
