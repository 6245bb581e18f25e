"""Every hyper-parameter of a run as typed values.

A preset is a function that returns a frozen configuration. `paper` follows the paper, `quick` is what two cores do in
an hour, `demo` in a minute, and `smoke` runs in seconds for tests. The budgets of attacks stand with each attack.
"""

from imageveil.presets.classifier import CLASSIFIER_PRESETS, ClassifierConfig
from imageveil.presets.overrides import as_json, choose
from imageveil.presets.transformation import TRANSFORMATION_PRESETS, PreliminaryConfig, TransformationConfig

__all__ = [
    "CLASSIFIER_PRESETS",
    "TRANSFORMATION_PRESETS",
    "ClassifierConfig",
    "PreliminaryConfig",
    "TransformationConfig",
    "as_json",
    "choose",
]
