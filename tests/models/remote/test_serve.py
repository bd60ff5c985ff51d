"""End to end: `transformers serve` on loopback gives the same answers as the bundled LVLM locally."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt import bundled
from visprompt.data.scenes.questions import scene_questions

pytestmark = pytest.mark.serve

START_SECONDS = 180.0
STRATEGIES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    ("circle", {}),
    ("som", {}),
    # squashed, as it is by default, the local model would see another shape: a server gets the crop as it is
    ("crop", {"fit": "model"}),
]


@pytest.fixture(scope="module")
def folder() -> str:
    return str(bundled.path("scenes-llava"))


@pytest.fixture(scope="module")
def served(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The remote model, after its server has started."""
    for name in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(name, reason='needs the dev extra: pip install -e ".[dev]"')
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(log.parent),
        "OMP_NUM_THREADS": "1",
    }
    with pytest.MonkeyPatch.context() as patch, log.open("w") as output:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        # a group of its own, so that whatever it starts ends with it
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            model = vp.load_model(f"remote:{folder}", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
            _wait_for_an_answer(model, process, log)
            yield model
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for_an_answer(model: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Its list of models needs a hub cache, so the first answer is what shows that it is there."""
    question = vp.Request(Image.new("RGB", (64, 64)), query="what colour ?")
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            vp.Runner(model).generate(question, max_new_tokens=1)
            return
        except vp.RemoteError as error:
            if "refused" not in str(error) or process.poll() is not None or time.monotonic() > ends:
                pytest.fail(f"transformers serve does not answer: {error}\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


def requests() -> list[vp.Request]:
    """Six questions about one object each: colours, shapes and sides."""
    asked = scene_questions("test", seed=1, count=6, kinds=("colour", "shape", "leftmost"))
    return [vp.Request(item.image, region=vp.Box(*item.target_boxes[0]), query=item.text) for item in asked]


def plain_answer(folder: str, image: Image.Image, query: str) -> str:
    """The result of transformers alone, without visprompt."""
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(folder)
    module = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "image", "image": image}, {"type": "text", "text": query}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        written = module.generate(**inputs, do_sample=False, max_new_tokens=8)
    return str(processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(("strategy", "options"), STRATEGIES)
def test_the_server_says_what_the_model_says_here(
    served: Any, folder: str, strategy: str | None, options: dict[str, Any]
) -> None:
    prompter = vp.Prompter.from_name(strategy, **options) if strategy else None
    local, remote = vp.Runner(vp.load_model(folder), prompter), vp.Runner(served, prompter)
    answers = remote.generate(requests(), max_new_tokens=8)
    assert len(set(answers)) > 1
    assert answers == local.generate(requests(), max_new_tokens=8)
    shown = remote.render(requests()[:1])[0]
    assert answers[0] == plain_answer(folder, shown, str(requests()[0].query))


def test_it_streams(served: Any) -> None:
    runner = vp.Runner(served)
    [whole] = runner.generate(requests()[:1], max_new_tokens=8)
    assert "".join(runner.generate(requests()[0], max_new_tokens=8, stream=True)).strip() == whole


def test_a_model_that_it_does_not_have(served: Any) -> None:
    other = vp.load_model("remote:no-such-model", base_url=f"http://{served.describe()['host']}/v1", max_retries=0)
    with pytest.raises(vp.RemoteError, match=r"failed on its side|knows no model"):
        vp.Runner(other).generate(requests()[0])


def test_strategies_that_need_internals_name_those_that_run(served: Any) -> None:
    with pytest.raises(vp.UnsupportedError, match=r"acts on attention.*circle"):
        vp.Runner(served, vp.Prompter.from_name("falip")).generate(requests()[0])
