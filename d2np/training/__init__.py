"""Training of conv4_3 by D2-Net's loss, with NumPy alone: see ``docs/training.md``."""

from .curve import draw_curve
from .loop import Settings, Training, train
from .loss import Correspondences, Loss, ranking_loss
from .pairs import FEWEST, Depths, Model, Pair, Pairs, Photographs

__all__ = [
    "FEWEST", "Correspondences", "Depths", "Loss", "Model", "Pair", "Pairs", "Photographs", "Settings",
    "Training", "draw_curve", "ranking_loss", "train",
]  # fmt: skip
