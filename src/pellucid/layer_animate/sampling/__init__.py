"""From noise around a clean base frame to latents of a clip."""
