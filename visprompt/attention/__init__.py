"""How an edit reaches, and a map is read from, the attention of each backend. Knows models' modules, not strategies."""

from visprompt.attention.program import SiteProgram, compile_programs
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site, Tower

__all__ = ["Scope", "Site", "SiteProgram", "Tower", "compile_programs"]
