"""Every noise model of the four papers (`models`), and images of another data set
(`foreign`)."""

from .models import (
    KINDS,
    MAPS,
    NEEDS,
    OFFICIAL_SEEDS,
    NoisyLabels,
    class_map,
    corrupt,
    drpl_imagenet_classes,
    expected_rate,
    expected_transition,
    flips,
    official_draw,
    superclass_of,
)

__all__ = [
    "KINDS", "MAPS", "NEEDS", "OFFICIAL_SEEDS", "NoisyLabels", "class_map", "corrupt",
    "drpl_imagenet_classes", "expected_rate", "expected_transition", "flips",
    "official_draw", "superclass_of",
]
