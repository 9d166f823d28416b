"""Training of conv4_3 by D2-Net's loss, with NumPy alone: see ``docs/training.md``."""

from .curve import draw_curve
from .depths import Depths
from .loop import Settings, Training, train
from .loss import Correspondences, Loss, ranking_loss
from .model import Model
from .pairs import FEWEST, Pair, Pairs, Photographs

__all__ = [
    "FEWEST", "Correspondences", "Depths", "Loss", "Model", "Pair", "Pairs", "Photographs", "Settings",
    "Training", "draw_curve", "ranking_loss", "train",
]  # fmt: skip
