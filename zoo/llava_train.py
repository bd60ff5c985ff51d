"""Trains the bundled LVLM: seeded, resumable after a kill, two threads, a log line every 50 steps.

The vision tower starts from the bundled scenes-clip and learns on, slowly; projector and decoder start from scratch.
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
        steps: Optimiser steps; the learning rates fall to zero along a cosine over exactly these.
        late_from: Step from which questions are asked as often as `zoo.llava_samples.LATE_WEIGHTS` says.
        tower_lr: Share of the learning rate that the vision tower gets.
        early_loss: Weight of the answer at the question's last two tokens.
        named_loss: Weight of a word's looking at what it names; see `grounding`.
        patch_loss: Weight of the naming of colour and shape under every patch.
        place_loss: Weight of the naming of every patch's row and column.
        validate_every: Steps between measurements on validation questions.
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
    """Build the untrained model: a tower like scenes-clip's and 5 Llama blocks of width 192 with 6 heads."""
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
    """Start from words, images and attention of the same size, and small additions by the blocks.

    With the library's own initialisation a word's row is so short that the first block's output drowns which word it
    was, and for hundreds of steps the decoder names any object, not the one asked about.
    """
    decoder, projector = model.model.language_model, model.model.multi_modal_projector
    decoder.embed_tokens.weight.normal_()
    projector.linear_1.weight.normal_(std=0.25 * projector.linear_1.in_features**-0.5)  # the tower's rows are long
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
    """Copy the vision tower of the bundled scenes-clip."""
    from transformers import CLIPModel

    source = CLIPModel.from_pretrained(bundled.path("scenes-clip"), local_files_only=True, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(source.vision_model.state_dict())


class Aids(nn.Module):
    """Auxiliary losses on the image's rows, not shipped: what stands at a patch, and where the patch is.

    A patch is named with the decoder's own words: its row must be close to "red" and to "star" among the words as they
    are read (the embedding) and as they are said (the head). Without that the decoder learns at once to name some
    object, and for a long time not which one is meant. The places keep rows and columns readable.
    """

    def __init__(self, width: int, n_taps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_taps))
        self.nothing = nn.ModuleList(nn.Linear(width, 4) for _ in range(n_taps))
        self.places = nn.ModuleList(nn.Linear(width, 2 * GRID) for _ in range(n_taps))
        self.scale = nn.Parameter(torch.full((2,), 1.0))

    def forward(self, model: Any, rows: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the names, loss of the places.

        Args:
            model: The model whose words name the patches.
            rows: Per tap ``(n, 64, width)``.
            labels: int64 ``(n, 64, 2)``, colour and shape, -100 where undecided.
        """
        ids = torch.tensor([VOCABULARY[word] for word in (*COLOURS, *SHAPES)])
        read, said = model.model.language_model.embed_tokens.weight[ids], model.lm_head.weight[ids]
        where = torch.arange(GRID)
        place = torch.stack(torch.meshgrid(where, where, indexing="ij"), dim=-1).reshape(1, -1).expand(len(labels), -1)
        # Background fills most patches; it counts a fifth, or the rows would spend themselves on it.
        weight = torch.ones(NOTHING + 1)
        weight[NOTHING] = 0.2
        truth = labels.reshape(-1, 2)
        names = places = torch.zeros(())
        for row, norm, nothing, head in zip(rows, self.norms, self.nothing, self.places, strict=True):
            normed = norm(row.float())
            places = places + F.cross_entropy(head(normed).reshape(-1, GRID), place.reshape(-1))
            empty = nothing(normed).reshape(-1, 2, 2)
            for way, words in enumerate((read, said)):
                logits = self.scale[way] * (normed @ F.normalize(words, dim=-1).T).reshape(-1, 2, len(COLOURS))
                logits = torch.cat([logits, empty[:, :, way : way + 1]], dim=-1)
                for attribute in range(2):
                    known = truth[:, attribute] != IGNORE
                    loss = F.cross_entropy(logits[known, attribute], truth[known, attribute], weight=weight)
                    names = names + loss / 4
        return names / len(rows), places / len(rows)


class Steps(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One batch for every step number; lives in the loader's own process."""

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
    """Say which questions are answered rightly: the right word, and then ``<eos>``.

    Args:
        model: A ``LlavaForConditionalGeneration``.
        data: What `zoo.llava_samples.held_out` returns.
        dtype: Of the pass.
        dim: Factor on the images' brightness.
        biases: Ways of pointing to try, ``(n, ways, 64)``, as in `zoo.llava_forward.answer`; None: only without a bias.

    Returns:
        Boolean ``(n, ways)``.
    """
    images, tokens, ask = (torch.as_tensor(data[name]) for name in ("images", "tokens", "ask"))
    images = (images.float() * dim).round().to(torch.uint8)
    ways = 1 if biases is None else biases.shape[1]
    right = []
    for at in range(0, len(images), 256):
        part = slice(at, at + 256)
        rows, places = tokens[part].expand(-1, ways, -1), ask[part].expand(-1, ways)
        shift = None if biases is None else biases[part]
        said = answer(model, see(model, normalised(images[part], dtype)), rows, places, shift).logits.argmax(-1)
        truth = rows.gather(2, places[..., None] + 1)[..., 0]
        # The last row has read the right answer; where the word before is wrong it does not matter what follows.
        right.append((said[:, :, 2] == truth) & (said[:, :, 3] == EOS))
    return torch.cat(right)


def measure(model: Any, data: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Share of rightly answered questions, by kind; the arguments are those of `answered`."""
    correct, kinds = answered(model, data, dtype)[:, 0].float(), torch.as_tensor(data["kinds"])[:, 0]
    return {kind: float(correct[kinds == i].mean()) for i, kind in enumerate(KINDS["easy"]) if bool((kinds == i).any())}


def _loss(
    model: Any, aids: Aids, recipe: LlavaRecipe, data: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and what it is made of, in the order of ``_LOGGED`` (without the gradient's norm)."""
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
    """Train the LVLM, or go on with it where the last checkpoint left it.

    Args:
        recipe: The schedule.
        out: Folder for ``<name>.pt`` (checkpoint) and ``<name>.jsonl`` (log).
        dtype: Of the forward and backward pass; weights and optimiser stay float32.
        threads: Of the training process; images are made in one more process.
        stop_at: Stop early, after this step, as a kill would (for rehearsals); the schedule stays the recipe's.

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
    """Cross-entropy of the answers, of the answers two tokens early, and of ``<eos>`` behind; empty slots take no part.

    At its last word a question is known already. Having the answer there takes one step (find the star, read its
    colour) where ``<assistant>`` needs two, which are hard to learn at once.
    """
    asked = ask >= 0
    truth = tokens.gather(2, ask.clamp_min(0)[..., None] + 1)[..., 0]
    ends = torch.full_like(truth[asked], EOS)
    losses = [F.cross_entropy(logits[:, :, at][asked], truth[asked]) for at in range(3)]
    return losses[2], losses[0] + losses[1], F.cross_entropy(logits[:, :, 3][asked], ends)


class Named(NamedTuple):
    """What the last word of a question that names something stands for.

    Attributes:
        at: Where that word is, -1 if there is none; ``(n, questions)``.
        patches: Patches of the objects that are named up to it ("red star": of all red stars); ``(n, questions, 64)``.
    """

    at: Tensor
    patches: Tensor


def named_objects(tokens: Tensor, ask: Tensor, labels: Tensor) -> Named:
    """Find what questions name: "star" in "the first object left of the red star", and the patches of all red stars.

    What is asked *about* takes no part unless it is named: finding the leftmost object, or the one left of the star, is
    not taught by what is made from this.

    Args:
        tokens, ask: As in a batch.
        labels: int64 ``(n, 64, 2)``: colour and shape per patch.
    """
    places = torch.arange(tokens.shape[2])
    asking = torch.where(places < ask[..., None], tokens, PAD)
    named = _NAMED[asking]  # (n, questions, SLOT, 2)
    wanted = named.amax(dim=2)[:, :, None]
    fits = ((labels[:, None] == wanted) | (wanted < 0)).all(-1) & ((labels >= 0) & (labels < NOTHING)).all(-1)[:, None]
    at = torch.where((named >= 0).any(-1), places, -1).amax(dim=2)
    return Named(torch.where(fits.any(-1), at, -1), fits)


def grounding(looks: Tensor, named: Named) -> Tensor:
    """How little the named objects are looked at: -log of their share of two heads' attention on the image."""
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
    """Parameters by learning rate and decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in parameters.items():
        share = recipe.tower_lr if "vision_tower" in name else 1.0
        decay = 0.0 if value.ndim < 2 or "embed" in name else recipe.weight_decay
        groups.setdefault((share, decay), []).append(value)
    return [{"params": p, "weight_decay": decay, "share": share} for (share, decay), p in groups.items()]
