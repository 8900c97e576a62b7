"""Spatial attention with Inter-Frame Attention (Eq. 3) and LayerDiffuse units."""
