"""Clips with alpha: read, cut, moved and drawn."""
