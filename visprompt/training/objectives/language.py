"""Questions with their answers: the language-model loss of a frozen LVLM, with the prompt in its vision tower."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError
from visprompt.models.chat import Chat
from visprompt.models.site_checks import check_gradient
from visprompt.training.dataset import UnreadableItem
from visprompt.training.objectives.base import Batch, Objective, Split
from visprompt.training.objectives.encoder import adding_type
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.models.lvlm.answer_likelihood import AnswerLogProbs
    from visprompt.models.lvlm.model import LVLM
    from visprompt.training.settings import FitSettings


class LanguageModelling(Objective):
    """How unlikely the right answers are, with the prompt in the model's vision tower.

    The loss of an image is the mean over its answer's tokens of −log p(token | image, question, tokens before it),
    the token that ends the answer among them, so that the model learns to stop. Questions and images are what it
    reads, not what it is taught; decoder and projector stay frozen, and nothing is cached.

    Figures: `loss`; `answer_accuracy`, the share of answers all of whose tokens, the end among them, are the model's
    first choice, which is when greedy decoding writes the answer and nothing else; `token_accuracy`, the share of
    tokens. All of it comes from one forward a batch, none is generated.

    Args:
        model: a vision-language model whose vision tower takes the prompt.
        prompter: the strategy.
        splits: data of kind "answers".
        settings: how it is trained; there is no head, and images are not augmented: mirrored, their left would be
            right, and cropped, they may lack what the question is about.

    Raises:
        UnsupportedError: for an encoder, or a model that runs elsewhere.
        InvalidInputError: for data without questions, a head, or augmentation.
    """

    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        super().__init__(model, prompter, splits, settings)
        if not hasattr(model, "editing"):
            raise UnsupportedError(f"{model.name} cannot be taught answers: that takes a vision-language model here.")
        for split, data in splits.items():
            if data.kind != "answers":
                raise InvalidInputError(f"the {split} data are for {data.kind}; expected questions with their answers.")
        if settings.head is not None:
            raise InvalidInputError(f"head={settings.head!r}: answers are written by the model itself, without a head.")
        if settings.augment != "none":
            raise InvalidInputError(
                f'augment={settings.augment!r} may change what the right answer is: leave it at "none" for questions.'
            )
        self.lvlm: LVLM = model  # type: ignore[assignment]

    # -- samples ------------------------------------------------------------------------------------------------------

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        return Questions(self.splits[split])

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """`"index"`, and lists: `"image"`, `"question"`, `"answer"`; None if every sample was left out."""
        there = [sample for sample in samples if sample is not None]
        if not there:
            return None
        batch: Batch = {name: [sample[name] for sample in there] for name in ("image", "question", "answer")}
        return {"index": torch.tensor([sample["index"] for sample in there]), **batch}

    # -- the forward --------------------------------------------------------------------------------------------------

    @contextmanager
    def loss(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Tensor]:
        from visprompt.training.gradient_checkpointing import checkpointed

        # The loop has the vision tower's blocks checkpointed; most of what is kept for the gradient is the decoder's.
        again = checkpointed(self.model, "decoder") if self.settings.checkpointing else nullcontext()
        with again, self._told(batch, draws) as log_probs:
            check_gradient(log_probs.log_likelihood)
            yield _per_image(log_probs).sum()

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        with self._told(batch, None) as log_probs:
            right, counted = log_probs.first_choice, log_probs.counted
            return {
                "count": torch.tensor(len(right), device=right.device),
                "loss": _per_image(log_probs).sum().to(adding_type(right.device)),
                "answers_right": right.all(dim=1).sum(),
                "tokens_right": (right & counted).sum(),
                "tokens": counted.sum(),
            }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        count = float(sums["count"])
        return {
            "loss": float(sums["loss"]) / count,
            "answer_accuracy": float(sums["answers_right"]) / count,
            "token_accuracy": float(sums["tokens_right"]) / float(sums["tokens"]),
        }

    def describe(self) -> dict[str, Any]:
        return {"task": "answers"}

    @contextmanager
    def _told(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[AnswerLogProbs]:
        from visprompt.models.lvlm.answer_likelihood import answer_ids, answer_log_probs
        from visprompt.models.lvlm.inputs import prepare

        self.prompter.constrain()
        asked = [
            VisualPrompt(image, query=question, fit=self.settings.fit)
            for image, question in zip(batch["image"], batch["question"], strict=True)
        ]
        prompts = self.prompter.training_edit(asked, self.model, draws)
        chats = [Chat((prompt,), prompt.query or "") for prompt in prompts]
        answers = [answer_ids(self.lvlm, text, ended=True) for text in batch["answer"]]
        inputs = prepare(self.lvlm, chats)
        with self.lvlm.editing(chats, inputs):
            yield answer_log_probs(self.lvlm, inputs, answers)


class Questions(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Images as they are, with question and answer; the key is (index, epoch), as in `loading.Images`.

    Raises:
        UnreadableItem: when an image fails to open, unless the data says `on_bad="skip"`: then the item is None, and
            the image is named once in a warning.
    """

    def __init__(self, data: Labelled) -> None:
        self.data = data
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        index = key[0]
        question, answer = self.data.label(index)  # type: ignore[misc]
        try:
            image = self.data.image(index)
        except VispromptError as error:
            if self.data.on_bad == "refuse":
                raise UnreadableItem(str(error)) from None
            name = self.data.item_name(index)
            if name not in self._named:
                self._named.add(name)
                warnings.warn(f"left out of training: {error}", UserWarning, stacklevel=2)
            return None
        return {"index": index, "image": image, "question": question, "answer": answer}


def _per_image(log_probs: AnswerLogProbs) -> Tensor:
    """`[n]`: mean over each answer's tokens of their negative log-likelihood."""
    return -log_probs.log_likelihood.sum(dim=1) / log_probs.counted.sum(dim=1)
