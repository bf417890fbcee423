"""Callbacks of every run: metrics, figures, progress, and a checkpoint when it is interrupted."""

from lightning_modules.run.callbacks.figure_files import Figures
from lightning_modules.run.callbacks.gradient_norms import Gradients
from lightning_modules.run.callbacks.history import History
from lightning_modules.run.callbacks.interrupt import Interrupt
from lightning_modules.run.callbacks.progress_bar import ProgressBar
from lightning_modules.run.callbacks.warm_up import WarmUp

__all__ = ["Figures", "Gradients", "History", "Interrupt", "ProgressBar", "WarmUp"]
