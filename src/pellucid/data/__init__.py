"""Pictures to train on and to measure with: tar shards, paired folders, and pictures drawn by code."""

from pellucid.data.bank import PixelBank
from pellucid.data.shards import ShardIndex, decode

__all__ = ["PixelBank", "ShardIndex", "decode"]
