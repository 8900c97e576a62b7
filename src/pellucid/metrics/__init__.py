"""Measures of pictures and clips under named protocols: of colour, of transparency, of motion, of text."""

from pellucid.metrics.alpha import alpha_errors, composite_quality
from pellucid.metrics.colour import (
    ab_psnr,
    chroma,
    colour_distribution_consistency,
    colourfulness,
    hue,
    hue_distance,
)
from pellucid.metrics.cut_out import CutOut, measure_cut_out
from pellucid.metrics.dynamic_degree import Motion, measure_motion
from pellucid.metrics.flow import DISFlow, RAFTFlow
from pellucid.metrics.protocols import PROTOCOLS, Protocol, evaluate_pair, find, prepare, psnr, ssim
from pellucid.metrics.tables import markdown_table, markdown_tables

__all__ = [
    "PROTOCOLS",
    "CutOut",
    "DISFlow",
    "Motion",
    "Protocol",
    "RAFTFlow",
    "ab_psnr",
    "alpha_errors",
    "chroma",
    "colour_distribution_consistency",
    "colourfulness",
    "composite_quality",
    "evaluate_pair",
    "find",
    "hue",
    "hue_distance",
    "markdown_table",
    "markdown_tables",
    "measure_cut_out",
    "measure_motion",
    "prepare",
    "psnr",
    "ssim",
]
