"""Pictures to train on and to measure with: tar shards, paired folders, and pictures drawn by code."""

from pellucid.data.bank import PixelBank
from pellucid.data.folder import Folder, Pair, PairedFolders
from pellucid.data.shards import ShardIndex, decode
from pellucid.data.synthetic import draw_pictures

__all__ = ["Folder", "Pair", "PairedFolders", "PixelBank", "ShardIndex", "decode", "draw_pictures"]
