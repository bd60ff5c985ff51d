"""How an edit reaches, and a map is read from, the attention of each backend. Knows models' modules, not strategies."""

from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site, Tower

__all__ = ["Scope", "Site", "SiteProgram", "Tower", "compile_programs", "open_scope"]
