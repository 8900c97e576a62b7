"""A tiny CLIP of our own: trained on named pictures with alpha, for text scores without a download."""
