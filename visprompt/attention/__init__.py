"""Edits and reads the attention of a model, for every backend (transformers, open_clip, timm).

The package imports the modules of models and no strategies.
"""

from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site, Tower

__all__ = ["Scope", "Site", "SiteProgram", "Tower", "compile_programs", "open_scope"]
