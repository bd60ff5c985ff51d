"""Module paths of visprompt 0.4.0: importing one imports the module at its new path, with a DeprecationWarning.

The old paths work until 0.6.0.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

#: module path in 0.4.0 → path now, both below `visprompt`
MOVED = {
    "answering": "runner.answers",
    "attention.naming": "attention.implementation_names",
    "attention.packed": "attention.packed_positions",
    "attention.rows": "attention.row_math",
    "attention.sharing": "attention.prefix_sharing",
    "attention.tempering": "attention.temperature",
    "attention.timeline": "attention.decoder_positions",
    "attention.tokens": "attention.prompt_tokens",
    "bench_gain": "bench.old_names",
    "bench_gain_model": "bench.gain.markers",
    "bench_gain_sweep": "bench.gain.sweep",
    "bench_model": "bench.accuracy.unit",
    "bench_rows": "bench.store",
    "bench_tuning": "bench.old_names",
    "bench_tuning_runs": "bench.tuning.unit",
    "bench_workers": "bench.workers",
    "bundled.lookup": "learned.bundled_prompts",
    "card_figures": "persistence.card_figures",
    "cards": "persistence.model_card",
    "cli_args": "cli.arguments",
    "cli_ask": "cli.ask",
    "cli_bench": "cli.bench",
    "cli_bench_gain": "cli.bench",
    "cli_bench_tuning": "cli.bench",
    "cli_benchmarks": "cli.answer_export",
    "cli_fit": "cli.fit",
    "cli_gain": "cli.gain_table",
    "cli_heat": "cli.show_heatmap",
    "cli_inspect": "cli.inspect",
    "cli_look": "cli.show_score",
    "cli_predict": "cli.predict",
    "comparisons": "bench.accuracy.summary",
    "comparisons_gain": "bench.gain.summary",
    "comparisons_tuning": "bench.tuning.summary",
    "data.ade20k": "data.labelled.ade20k",
    "data.bundled_sets": "data.scenes.named_sets",
    "data.cub": "data.referring.cub",
    "data.detections": "data.referring.detections",
    "data.downstream": "data.scenes.downstream",
    "data.fgvc": "data.labelled.fgvc",
    "data.folders": "data.labelled.folders",
    "data.hub": "data.labelled.hub",
    "data.label_names": "data.labelled.label_names",
    "data.labelled_items": "data.labelled.items",
    "data.llava_wild": "data.questions.llava_wild",
    "data.mm_vet": "data.questions.mm_vet",
    "data.mmmu": "data.questions.mmmu",
    "data.pointed": "data.referring.keypoints",
    "data.reclip": "data.referring.reclip",
    "data.refer": "data.referring.refer",
    "data.scenes_answers": "data.scenes.answers",
    "data.scenes_draw": "data.scenes.draw",
    "data.scenes_layout": "data.scenes.layout",
    "data.scenes_points": "data.scenes.points",
    "data.scenes_small": "data.scenes.small",
    "data.scenes_vqa": "data.scenes.questions",
    "data.splits": "data.labelled.splits",
    "data.tables": "data.labelled.tables",
    "data.unlabelled": "data.labelled.unlabelled",
    "data.vlmevalkit": "data.questions.vlmevalkit",
    "data.vtab": "data.labelled.vtab",
    "exhibits": "bench.accuracy.examples",
    "exhibits_gain": "bench.gain.examples",
    "exhibits_tuning": "bench.tuning.examples",
    "exhibits_vqa": "bench.accuracy.examples_vqa",
    "geometry_analytic": "geometry.analytic",
    "geometry_fit": "geometry.fit",
    "geometry_probe": "geometry.probe",
    "geometry_resolve": "geometry.resolve",
    "images": "imaging.load",
    "maps": "runner.attention_map",
    "models.chat_inputs": "models.lvlm.inputs",
    "models.features": "models.patch_features",
    "models.lvlm_answers": "models.lvlm.answer_likelihood",
    "models.lvlm_edits": "models.lvlm.edits",
    "models.lvlm_encoder": "models.lvlm.vision_encoder",
    "models.lvlm_layout": "models.lvlm.families",
    "models.lvlm_layout_dynamic": "models.lvlm.layouts.dynamic",
    "models.lvlm_layout_shuffled": "models.lvlm.layouts.pixel_shuffle",
    "models.lvlm_layout_tiles": "models.lvlm.layouts.tiled",
    "models.lvlm_options": "models.lvlm.generation",
    "models.lvlm_text": "models.lvlm.text",
    "models.lvlm_tokens": "models.lvlm.prompt_tokens",
    "models.lvlm_vision": "models.lvlm.vision_tower",
    "models.open_clip": "models.backends.open_clip",
    "models.pictures": "models.preprocessing",
    "models.proof": "models.site_checks",
    "models.references": "models.gain_reference",
    "models.reflection": "models.lvlm.answer_attention",
    "models.remote_client": "models.remote.client",
    "models.remote_messages": "models.remote.messages",
    "models.remote_parallel": "models.remote.parallel",
    "models.scores": "models.clip_logits",
    "models.squares": "models.lvlm.square_input",
    "models.timm": "models.backends.timm",
    "models.transformers": "models.backends.transformers",
    "overlay": "imaging.tint",
    "patches": "imaging.paste",
    "plots_gain": "plots.gain",
    "plots_heat": "plots.heatmaps",
    "plots_learned": "plots.learned",
    "plots_masks": "plots.segmentation",
    "plots_tuning": "plots.tuning",
    "predicting": "runner.predictions",
    "prompt_attention": "runner.token_attention",
    "regions_coco": "regions.coco",
    "report": "bench.report",
    "report_gain": "bench.gain.document",
    "report_kinds": "bench.accuracy.document_tables",
    "report_tuning": "bench.tuning.document",
    "results": "utils.jsonl",
    "saving": "persistence.prompt_files",
    "statistics": "utils.statistics",
    "suites": "bench.suite",
    "suites_checks": "bench.schema",
    "suites_gain": "bench.gain.spec",
    "suites_tuning": "bench.tuning.spec",
    "tasks.asked": "tasks.scene_questions",
    "tasks.benchmarks": "tasks.lvlm_benchmarks",
    "tasks.code": "tasks.fingerprint",
    "tasks.everywhere": "tasks.even_dimming",
    "tasks.maps": "tasks.map_quality",
    "tasks.pointing": "tasks.condition",
    "tasks.sources": "tasks.data_sources",
    "testing.blotches": "testing.toy_dataset",
    "training.attention_target": "training.objectives.patch_attention",
    "training.baselines": "learned.baselines",
    "training.checkpointing": "training.gradient_checkpointing",
    "training.checkpoints": "training.run_checkpoints",
    "training.classification": "training.objectives.classification",
    "training.encoders": "training.objectives.encoder",
    "training.fitting": "training.loop",
    "training.language": "training.objectives.language",
    "training.loading": "training.dataset",
    "training.metrics": "training.metrics_log",
    "training.objective": "training.objectives.base",
    "training.pasting": "training.patch.pasting",
    "training.plan": "training.batch_plan",
    "training.priors": "training.patch.priors",
    "training.processes": "training.distributed",
    "training.segmentation": "training.objectives.segmentation",
    "training.sketches": "training.progress_images",
}


class _MovedModule(importlib.abc.Loader):
    """Registers the module at the new path under the old name too, so that both names give the same module."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(
            f"{name} has moved to {self.new}; the old path works until visprompt 0.6.0.",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[name] = importlib.import_module(self.new)


class MovedModuleFinder(importlib.abc.MetaPathFinder):
    """Finds modules by their paths in 0.4.0; it is the last finder, so it is used only if no other finds the module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "visprompt" or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, _MovedModule(f"visprompt.{MOVED[old]}"))


def install() -> None:
    """Adds the finder to `sys.meta_path`, once per process."""
    if not any(isinstance(finder, MovedModuleFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedModuleFinder())
