"""Evaluation tasks: one module per task, the loop that runs them, and the sources of their data.

>>> from visprompt.tasks import Condition, Referring
>>> Referring().settings()["template"]
'a photo of {}'
"""

from visprompt.tasks.base import Outcome, Task, evaluate
from visprompt.tasks.condition import Condition
from visprompt.tasks.gain import GainMeter, attention_gain
from visprompt.tasks.keypoints import Keypoints
from visprompt.tasks.naming import Naming
from visprompt.tasks.referring import Referring
from visprompt.tasks.vqa import Vqa
from visprompt.utils.renamed import renamed_names

__all__ = [
    "TASKS",
    "GainMeter",
    "Keypoints",
    "Naming",
    "Outcome",
    "Condition",
    "Referring",
    "Task",
    "Vqa",
    "attention_gain",
    "evaluate",
]

#: tasks by their names in suites
TASKS: dict[str, type[Task]] = {"referring": Referring, "naming": Naming, "keypoints": Keypoints, "vqa": Vqa}

#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"Pointing": "Condition"}, globals())
