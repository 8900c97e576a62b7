"""Make the pictures of src/pellucid/examples/reflection: CC0 photographs seen through a pane that reflects another one.

Usage: python examples/make_glass_pictures.py src/pellucid/examples/reflection (needs scikit-image, whose CC0 pictures
are used). No photograph through real glass under a licence that allows shipping it was at hand.
"""

import sys
from pathlib import Path

import torch
from skimage import data
from torch import Generator, Tensor

from pellucid.layers import Layer, LayerStack
from pellucid.multistep_sirr.blending import BlendOptions, blur, linear_rgb_to_rgb, rgb_to_linear_rgb, veil

SCENES = {"coffee": (data.coffee, data.chelsea, 2.5), "cat": (data.chelsea, data.rocket, 2.8)}


def photograph(read) -> Tensor:
    """One of scikit-image's pictures as ``(1, 3, 400, 600)`` in [0, 1], its middle cut to 3:2."""
    picture = torch.tensor(read()).permute(2, 0, 1)[None].float() / 255
    height, width = picture.shape[-2:]
    height, width = min(height, width * 2 // 3), min(width, height * 3 // 2)
    top, left = (picture.shape[-2] - height) // 3, (picture.shape[-1] - width) // 2
    picture = picture[..., top : top + height, left : left + width]
    return torch.nn.functional.interpolate(picture, (400, 600), mode="bicubic", antialias=True).clamp(0, 1)


def main(folder: Path) -> None:
    """Write one JPEG a scene."""
    options = BlendOptions(veil_gain=(0.06, 0.14), veil_flat=0.0)
    for seed, (name, (behind, reflected, sigma)) in enumerate(SCENES.items()):
        scene, mirror = photograph(behind), photograph(reflected)
        light = 0.35 * rgb_to_linear_rgb(blur(mirror, torch.tensor([sigma]), 21))
        mixture = linear_rgb_to_rgb((0.9 * rgb_to_linear_rgb(scene) + light).clamp(0, 1))
        mixture = veil(mixture, mirror, Generator().manual_seed(seed), options)
        stack = LayerStack((Layer("image", mixture[0].contiguous()),))
        stack.save(folder / f"{name}_through_glass.jpg", overwrite=True, quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
