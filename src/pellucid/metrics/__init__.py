"""Measures of pictures under named protocols."""

from pellucid.metrics.protocols import PROTOCOLS, Protocol, evaluate_pair, find, prepare, psnr, ssim

__all__ = ["PROTOCOLS", "Protocol", "evaluate_pair", "find", "prepare", "psnr", "ssim"]
