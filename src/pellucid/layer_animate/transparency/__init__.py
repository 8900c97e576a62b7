"""Latent transparency (Eq. 1-2): its networks, its training."""
