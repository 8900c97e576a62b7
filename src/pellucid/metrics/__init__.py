"""Measures of pictures under named protocols."""

from pellucid.metrics.protocols import PROTOCOLS, Protocol, evaluate_pair, find, prepare, psnr, ssim
from pellucid.metrics.tables import markdown_table

__all__ = ["PROTOCOLS", "Protocol", "evaluate_pair", "find", "markdown_table", "prepare", "psnr", "ssim"]
