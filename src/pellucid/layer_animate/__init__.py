"""The room of transparent video: one picture with alpha and a text become a clip with alpha (Layer-Animate)."""
