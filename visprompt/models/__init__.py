"""Models: `load_model`, `wrap`, and one module per backend. No strategy is known here."""

from visprompt.models.base import Model
from visprompt.models.encoding import Encoding
from visprompt.models.loading import list_models, load_model, wrap

__all__ = ["Encoding", "Model", "list_models", "load_model", "wrap"]
