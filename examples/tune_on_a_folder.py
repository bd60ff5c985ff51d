"""Tunes prompt tokens on a folder of class folders, and predicts the classes of new images.

    python examples/tune_on_a_folder.py
    python examples/tune_on_a_folder.py flowers/ --model timm:vit_base_patch16_224.mae --epochs 20

Without arguments it first writes such a folder, with handwritten digits, and tunes the small auto-encoder that ships
with the package for some seconds, which is too short for a good result. A run that was stopped continues when the
script is started again.
"""

import argparse
from pathlib import Path

import visprompt as vp
from visprompt.data.scenes.downstream import digits


def write_digits(folder: Path) -> Path:
    """Writes the digits 0 to 3 of the set into `folder/{train,val,test}/<digit>/<number>.png`."""
    for part, split, count in [("train", "train", 400), ("val", "validation", 100), ("test", "test", 250)]:
        data = digits(split, count=count)
        for number, (draw, label) in enumerate(item for item in data.items if item[1] < 4):
            path = folder / part / data.classes[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw().save(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folders train, val and test, with a folder per class")
    parser.add_argument("--model", default="bundled:scenes-mae", help="what visprompt.load_model takes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate; every model and data set wants its own")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/tune_on_a_folder"))
    given = parser.parse_args()

    folder = given.folder or write_digits(given.out / "digits")
    model = vp.load_model(given.model)
    prompter = vp.Prompter.from_name("gated", prompts=10)
    settings = {"epochs": given.epochs, "batch_size": 16, "optimizer": "adamw", "lr": given.lr}
    fitted = prompter.fit(model, folder, out=given.out / "run", **settings)
    print(f"trained parameters: prompt {fitted.parameters['prompt']:,}, head {fitted.parameters['head']:,}")
    for part, figures in [("validation", fitted.validation), ("test", fitted.test)]:
        print(f"accuracy on the {part} part: {figures['accuracy']:.1%}" if figures else f"there is no {part} part")

    learned = vp.Prompter.from_pretrained(given.out / "run")
    files = (folder / "test" if (folder / "test").is_dir() else folder).rglob("*")
    images = sorted(path for path in files if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    images = images[:: max(len(images) // 6, 1)]
    found = vp.Runner(model, learned).predict([vp.Request(path) for path in images])
    for path, prediction in zip(images, found, strict=True):
        print(f"{path.relative_to(folder)}: {prediction.label} ({prediction.probability:.0%})")
    print(f"wrote {given.out / 'run'}")


if __name__ == "__main__":
    main()
