"""Visual question answering: the language-model loss of a frozen LVLM with the prompt in its vision tower."""

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
    """Negative log-likelihood of the right answers, with the prompt in the LVLM's vision tower.

    The loss of an image is the mean over its answer's tokens of −log p(token | image, question, previous tokens),
    including the token that ends the answer. The question's tokens have no loss; decoder and projector stay frozen, and
    no features are cached.

    Metrics: `loss`; `answer_accuracy`, the fraction of answers whose tokens, the end token included, are all the
    model's first choice, which is when greedy decoding writes exactly this answer; `token_accuracy`, the fraction of
    such tokens. All come from one forward per batch, without generation.

    Args:
        model: a vision-language model whose vision tower takes the prompt.
        prompter: the strategy.
        splits: data of kind "answers".
        settings: the hyperparameters, without a head and without augmentation: mirroring swaps left and right, and a
            crop may lose what the question is about.

    Raises:
        UnsupportedError: for an encoder or a remote model.
        InvalidInputError: for data without questions, a head, or augmentation.
    """

    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        super().__init__(model, prompter, splits, settings)
        if not hasattr(model, "editing"):
            raise UnsupportedError(f"{model.name} cannot learn answers: this needs a local vision-language model.")
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
        """The images of a split with question and answer."""
        return Questions(self.splits[split])

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """`"index"`, and lists: `"image"`, `"question"`, `"answer"`; None if every sample was left out."""
        readable = [sample for sample in samples if sample is not None]
        if not readable:
            return None
        batch: Batch = {name: [sample[name] for sample in readable] for name in ("image", "question", "answer")}
        return {"index": torch.tensor([sample["index"] for sample in readable]), **batch}

    # -- the forward --------------------------------------------------------------------------------------------------

    @contextmanager
    def loss(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Tensor]:
        """The negative log-likelihood per token, summed over the images; see `Objective.loss`."""
        from visprompt.training.gradient_checkpointing import checkpointed

        # The loop checkpoints the vision tower; most of the activations are the decoder's.
        again = checkpointed(self.model, "decoder") if self.settings.checkpointing else nullcontext()
        with again, self._log_probs(batch, draws) as log_probs:
            check_gradient(log_probs.log_likelihood)
            yield _per_image(log_probs).sum()

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers of images, right answers, right tokens and tokens, and the summed loss."""
        with self._log_probs(batch, None) as log_probs:
            right, counted = log_probs.first_choice, log_probs.counted
            return {
                "count": torch.tensor(len(right), device=right.device),
                "loss": _per_image(log_probs).sum().to(adding_type(right.device)),
                "answers_right": right.all(dim=1).sum(),
                "tokens_right": (right & counted).sum(),
                "tokens": counted.sum(),
            }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """`loss`, `answer_accuracy` and `token_accuracy`."""
        count = float(sums["count"])
        return {
            "loss": float(sums["loss"]) / count,
            "answer_accuracy": float(sums["answers_right"]) / count,
            "token_accuracy": float(sums["tokens_right"]) / float(sums["tokens"]),
        }

    def describe(self) -> dict[str, Any]:
        """The task."""
        return {"task": "answers"}

    @contextmanager
    def _log_probs(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[AnswerLogProbs]:
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
    """A dataset of images with question and answer; the key is (index, epoch), as in `ImageDataset`.

    Args:
        data: of kind "answers".

    Raises:
        UnreadableItem: when an image cannot be opened, unless the data has `on_bad="skip"`: then the item is None, and
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
    """Mean negative log-likelihood of each answer's tokens, `[n]`."""
    return -log_probs.log_likelihood.sum(dim=1) / log_probs.counted.sum(dim=1)
