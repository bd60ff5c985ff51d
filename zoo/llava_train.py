"""Trains the bundled LVLM: seeded, resumable after a kill, two threads, a log line every 50 steps.

The vision tower starts from the bundled scenes-clip with a lower learning rate; projector and decoder start from
scratch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visprompt import bundled
from visprompt.data.scenes.questions import KINDS, PLURALS
from visprompt.data.scenes.world import COLOURS, SHAPES
from zoo.llava_forward import answer, see
from zoo.llava_samples import LATE_WEIGHTS, WEIGHTS, batch, held_out
from zoo.llava_text import BOS, EOS, IMAGE, MAX_TOKENS, N_IMAGE_TOKENS, PAD, VOCABULARY
from zoo.samples import GRID, IGNORE, NOTHING
from zoo.shared import Log, batches, cosine_lr, keep, normalised

_LOGGED = ("words", "early", "named", "names", "places", "grad")


@dataclass(frozen=True)
class LlavaRecipe:
    """The LVLM's schedule.

    Attributes:
        steps: optimiser steps; the learning rates fall to zero along a cosine over exactly these.
        late_from: step from which `zoo.llava_samples.LATE_WEIGHTS` give the frequencies of questions.
        tower_lr: learning rate of the vision tower as a fraction of the others'.
        early_loss: weight of the loss of the answer at the question's last two tokens.
        named_loss: weight of `grounding`, the attention of words to the objects they name.
        patch_loss: weight of the classification of colour and shape under every patch.
        place_loss: weight of the classification of every patch's row and column.
        validate_every: steps between evaluations on validation questions.
    """

    name: str = "scenes-llava"
    steps: int = 2600
    late_from: int = 1700
    batch_size: int = 16
    peak_lr: float = 1.5e-3
    tower_lr: float = 0.3
    warmup_steps: int = 150
    weight_decay: float = 0.05
    early_loss: float = 0.3
    named_loss: float = 0.3
    patch_loss: float = 0.3
    place_loss: float = 0.1
    seed: int = 3
    checkpoint_every: int = 100
    validate_every: int = 200
    validate_on: int = 64

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine to zero."""
        return cosine_lr(step, self.steps, self.peak_lr, self.warmup_steps)


LLAVA_RECIPES: dict[str, LlavaRecipe] = {"scenes-llava": LlavaRecipe()}


def new_llava() -> Any:
    """The untrained model: a tower like that of scenes-clip and 5 Llama blocks of width 192 with 6 heads."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_attention_heads=4,
        num_hidden_layers=6,
        image_size=64,
        patch_size=8,
        hidden_act="gelu",
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=N_IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(config)
    _start_even(model)
    return model


@torch.no_grad()
def _start_even(model: Any) -> None:
    """Initialises embeddings, image tokens and attention at the same scale, and the blocks with small updates.

    With the library's own initialisation the norm of an embedding is so small that the first block hides which word it
    was, and for hundreds of steps the decoder names any object.
    """
    decoder, projector = model.model.language_model, model.model.multi_modal_projector
    decoder.embed_tokens.weight.normal_()
    projector.linear_1.weight.normal_(
        std=0.25 * projector.linear_1.in_features**-0.5
    )  # the tower's rows have large norms
    projector.linear_2.weight.normal_(std=(2 / projector.linear_2.in_features) ** 0.5)
    width = decoder.config.hidden_size
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for part in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            part.weight.normal_(std=width**-0.5)
        for part in (attention.o_proj, mlp.down_proj):
            part.weight.normal_(std=(2 * len(decoder.layers) * part.in_features) ** -0.5)


@torch.no_grad()
def _take_tower(model: Any) -> None:
    """Copies the vision tower of the bundled scenes-clip."""
    from transformers import CLIPModel

    source = CLIPModel.from_pretrained(bundled.path("scenes-clip"), local_files_only=True, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(source.vision_model.state_dict())


class Aids(nn.Module):
    """Auxiliary losses on the image's rows, in training only: the object at a patch, and the patch's row and column.

    A patch's row must be close to "red" and to "star" among the input embeddings and among those of the head. Without
    this loss the decoder soon learns to name some object, and only much later the right one.
    """

    def __init__(self, width: int, n_taps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_taps))
        self.nothing = nn.ModuleList(nn.Linear(width, 4) for _ in range(n_taps))
        self.places = nn.ModuleList(nn.Linear(width, 2 * GRID) for _ in range(n_taps))
        self.scale = nn.Parameter(torch.full((2,), 1.0))

    def forward(self, model: Any, rows: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of colours and shapes, and the loss of rows and columns.

        Args:
            model: the model whose words are the classes.
            rows: per tap ``(n, 64, width)``.
            labels: int64 ``(n, 64, 2)``, colour and shape, -100 where undecided.
        """
        ids = torch.tensor([VOCABULARY[word] for word in (*COLOURS, *SHAPES)])
        read, spoken_as = model.model.language_model.embed_tokens.weight[ids], model.lm_head.weight[ids]
        where = torch.arange(GRID)
        place = torch.stack(torch.meshgrid(where, where, indexing="ij"), dim=-1).reshape(1, -1).expand(len(labels), -1)
        # Background fills most patches and would dominate the loss; its weight is a fifth.
        weight = torch.ones(NOTHING + 1)
        weight[NOTHING] = 0.2
        truth = labels.reshape(-1, 2)
        names = places = torch.zeros(())
        for row, norm, nothing, head in zip(rows, self.norms, self.nothing, self.places, strict=True):
            normed = norm(row.float())
            places = places + F.cross_entropy(head(normed).reshape(-1, GRID), place.reshape(-1))
            empty = nothing(normed).reshape(-1, 2, 2)
            for way, words in enumerate((read, spoken_as)):
                logits = self.scale[way] * (normed @ F.normalize(words, dim=-1).T).reshape(-1, 2, len(COLOURS))
                logits = torch.cat([logits, empty[:, :, way : way + 1]], dim=-1)
                for attribute in range(2):
                    known = truth[:, attribute] != IGNORE
                    loss = F.cross_entropy(logits[known, attribute], truth[known, attribute], weight=weight)
                    names = names + loss / 4
        return names / len(rows), places / len(rows)


class Steps(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One batch per step number; used in the loader's own process."""

    def __init__(self, recipe: LlavaRecipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        full = min(step / (0.2 * self.recipe.steps), 1.0)
        weights = WEIGHTS if step < self.recipe.late_from else LATE_WEIGHTS
        made = batch(self.recipe.seed, step, self.recipe.batch_size, full, weights)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}


@torch.no_grad()
def answered(
    model: Any, data: dict[str, Any], dtype: torch.dtype = torch.float32, dim: float = 1.0, biases: Tensor | None = None
) -> Tensor:
    """Whether questions are answered correctly: the right word, followed by ``<eos>``.

    Args:
        model: a ``LlavaForConditionalGeneration``.
        data: result of `zoo.llava_samples.held_out`.
        dtype: of the forward.
        dim: factor on the images' brightness.
        biases: attention biases to try, ``(n, ways, 64)``, as in `zoo.llava_forward.answer`; None: one way, without a
            bias.

    Returns:
        Boolean ``(n, ways)``.
    """
    images, tokens, ask = (torch.as_tensor(data[name]) for name in ("images", "tokens", "ask"))
    images = (images.float() * dim).round().to(torch.uint8)
    ways = 1 if biases is None else biases.shape[1]
    right = []
    for at in range(0, len(images), 256):
        part = slice(at, at + 256)
        rows, asked_at = tokens[part].expand(-1, ways, -1), ask[part].expand(-1, ways)
        shift = None if biases is None else biases[part]
        found = answer(model, see(model, normalised(images[part], dtype)), rows, asked_at, shift).logits.argmax(-1)
        truth = rows.gather(2, asked_at[..., None] + 1)[..., 0]
        # The prediction of <eos> is conditioned on the right answer; it does not count where the answer is wrong.
        right.append((found[:, :, 2] == truth) & (found[:, :, 3] == EOS))
    return torch.cat(right)


def measure(model: Any, data: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The fraction of correctly answered questions by kind; arguments as in `answered`."""
    correct, kinds = answered(model, data, dtype)[:, 0].float(), torch.as_tensor(data["kinds"])[:, 0]
    return {kind: float(correct[kinds == i].mean()) for i, kind in enumerate(KINDS["easy"]) if bool((kinds == i).any())}


def _loss(
    model: Any, aids: Aids, recipe: LlavaRecipe, data: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and its terms in the order of ``_LOGGED`` (without the gradient's norm)."""
    images = see(model, normalised(data["images"], dtype))
    read = answer(model, images, data["tokens"], data["ask"])
    words, early, ends = spoken(read.logits, data["tokens"], data["ask"])
    names, places = aids(model, read.image, data["patch_labels"])
    objects = named_objects(data["tokens"], data["ask"], data["patch_labels"])
    named = grounding(read.looks, objects)
    loss = words + recipe.early_loss * early + 0.1 * ends + recipe.named_loss * named
    loss = loss + recipe.patch_loss * names + recipe.place_loss * places
    return loss, [words, early / 2, named, names, places]


def train_llava(
    recipe: LlavaRecipe, out: Path, dtype: torch.dtype = torch.bfloat16, threads: int = 2, stop_at: int | None = None
) -> Path:
    """Trains the LVLM, or resumes from the last checkpoint.

    Args:
        recipe: the schedule.
        out: folder for ``<name>.pt`` (checkpoint) and ``<name>.jsonl`` (log).
        dtype: of the forward and backward pass; weights and optimiser stay float32.
        threads: of the training process; one more process creates the images.
        stop_at: stop after this step, as a kill would (for tests); the schedule is unchanged.

    Returns:
        The checkpoint's path.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log_path = out / f"{recipe.name}.pt", out / f"{recipe.name}.jsonl"
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = new_llava()
    _take_tower(model)
    aids = Aids(model.config.text_config.hidden_size, n_taps=4)
    parameters = {**dict(model.named_parameters()), **{f"aids.{k}": v for k, v in aids.named_parameters()}}
    groups = _groups(parameters, recipe)
    optimiser = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.98), fused=True)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        optimiser.load_state_dict(saved["optimiser"])
        model.load_state_dict(saved["model"])
        aids.load_state_dict(saved["aids"])
        step = saved["step"]
    loader = batches(Steps(recipe), step, recipe.steps if stop_at is None else stop_at)
    held = {name: held_out(recipe.validate_on, 0, name) for name in KINDS} if recipe.validate_on else {}
    log = Log(log_path, recipe.steps, step, dict.fromkeys(_LOGGED, 4))
    for data in loader:
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr(step) * group["share"]
        loss, parts = _loss(model, aids, recipe, data, dtype)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for p in parameters.values() if p.grad is not None], 1.0)
        optimiser.step()
        log.add(torch.stack([*parts, norm]).detach())
        step += 1
        if step % log.EVERY == 0:
            line = log.line(step, recipe.lr(step))
            if step % recipe.validate_every == 0:
                for name, questions in held.items():
                    found = measure(model, questions, dtype)
                    line[name] = {kind: round(100 * share) for kind, share in found.items()}
            log.write(line)
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            state = {"model": model.state_dict(), "aids": aids.state_dict(), "optimiser": optimiser.state_dict()}
            keep(checkpoint, {**state, "step": step})
    return checkpoint


def spoken(logits: Tensor, tokens: Tensor, ask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the answers, of the answers two tokens early, and of ``<eos>`` after them; empty slots are
    ignored.

    At its last word the question is complete, and the answer takes one step (find the star, read its colour) where
    ``<assistant>`` takes two, which are hard to learn at once. Shapes as in `zoo.llava_forward.answer`.
    """
    asked = ask >= 0
    truth = tokens.gather(2, ask.clamp_min(0)[..., None] + 1)[..., 0]
    ends = torch.full_like(truth[asked], EOS)
    losses = [F.cross_entropy(logits[:, :, at][asked], truth[asked]) for at in range(3)]
    return losses[2], losses[0] + losses[1], F.cross_entropy(logits[:, :, 3][asked], ends)


class Named(NamedTuple):
    """The objects that a question names, and the word that completes the name.

    Attributes:
        at: index of that word, -1 if there is none; ``(n, questions)``.
        patches: patches of the named objects ("red star": of all red stars); ``(n, questions, 64)``.
    """

    at: Tensor
    patches: Tensor


def named_objects(tokens: Tensor, ask: Tensor, labels: Tensor) -> Named:
    """Finds the named objects of questions: "star" in "the first object left of the red star", and the patches of all
    red stars; the object in question is not included unless it is named. Arguments as in a batch.
    """
    positions = torch.arange(tokens.shape[2])
    asking = torch.where(positions < ask[..., None], tokens, PAD)
    named = _NAMED[asking]  # (n, questions, SLOT, 2)
    wanted = named.amax(dim=2)[:, :, None]
    fits = ((labels[:, None] == wanted) | (wanted < 0)).all(-1) & ((labels >= 0) & (labels < NOTHING)).all(-1)[:, None]
    at = torch.where((named >= 0).any(-1), positions, -1).amax(dim=2)
    return Named(torch.where(fits.any(-1), at, -1), fits)


def grounding(looks: Tensor, named: Named) -> Tensor:
    """The loss of attention to named objects: −log of their fraction of two heads' attention on the image."""
    use = named.at >= 0
    rows = looks[:, :2].movedim(1, 2)[use]  # (used, heads, SLOT, 64)
    rows = rows.gather(2, named.at[use][:, None, None, None].expand(-1, 2, 1, 64))[:, :, 0].float()
    inside = rows.masked_fill(~named.patches[use][:, None], float("-inf"))
    return (rows.logsumexp(-1) - inside.logsumexp(-1)).mean()


def _named_by_words() -> Tensor:
    """Colour and shape that every word of the vocabulary names, -1 for none: int64 ``(words, 2)``."""
    table = torch.full((len(VOCABULARY), 2), -1)
    for attribute, groups in enumerate(((COLOURS,), (SHAPES, [PLURALS[shape] for shape in SHAPES]))):
        for words in groups:
            for number, word in enumerate(words):
                table[VOCABULARY[word], attribute] = number
    return table


_NAMED = _named_by_words()


def _groups(parameters: dict[str, Tensor], recipe: LlavaRecipe) -> list[dict[str, Any]]:
    """Parameter groups by learning rate and weight decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in parameters.items():
        share = recipe.tower_lr if "vision_tower" in name else 1.0
        decay = 0.0 if value.ndim < 2 or "embed" in name else recipe.weight_decay
        groups.setdefault((share, decay), []).append(value)
    return [{"params": p, "weight_decay": decay, "share": share} for (share, decay), p in groups.items()]
