"""Models: `load_model`, `wrap`, and one module per backend. The package imports no strategies."""

from visprompt.models.base import Model
from visprompt.models.encoding import Encoding
from visprompt.models.loading import list_models, load_model, wrap

__all__ = ["Encoding", "Model", "list_models", "load_model", "wrap"]
