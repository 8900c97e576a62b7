"""Measures of pictures under named protocols, and of colour."""

from pellucid.metrics.colour import (
    ab_psnr,
    chroma,
    colour_distribution_consistency,
    colourfulness,
    hue,
    hue_distance,
)
from pellucid.metrics.protocols import PROTOCOLS, Protocol, evaluate_pair, find, prepare, psnr, ssim
from pellucid.metrics.tables import markdown_table, markdown_tables

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "ab_psnr",
    "chroma",
    "colour_distribution_consistency",
    "colourfulness",
    "evaluate_pair",
    "find",
    "hue",
    "hue_distance",
    "markdown_table",
    "markdown_tables",
    "prepare",
    "psnr",
    "ssim",
]
