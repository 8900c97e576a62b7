"""Still pictures: PNG, JPEG, WebP, TIFF, BMP and single-frame GIF as stacks, and back."""

from pellucid.io.arrays import from_array, to_uint8, to_uint16
from pellucid.io.files import atomic_path

__all__ = ["atomic_path", "from_array", "to_uint8", "to_uint16"]
