"""A photograph of 24 megapixels through the command line, both ways: time, peak memory, and the size that comes out."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from table import Row, command, main, weights

MEMORY = 2.5  # GiB


def photograph(path: Path, width: int, height: int, seed: int = 0) -> None:
    """Write a JPEG with soft light, edges and grain, so that it compresses about as a photograph does."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 100 + 2, width // 100 + 2, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    shapes = Image.fromarray(random.integers(0, 2, (height // 40 + 1, width // 40 + 1), dtype=np.uint8) * 60)
    picture.paste((230, 220, 200), (0, 0), shapes.resize((width, height), Image.Resampling.NEAREST))
    grain = Image.effect_noise((width, height), 12).convert("RGB")
    Image.blend(picture, grain, 0.1).save(path, quality=92)


def measure(quick: bool) -> list[Row]:
    width, height = (600, 400) if quick else (6000, 4000)
    rows = []
    with TemporaryDirectory() as folder:
        here = Path(folder)
        photograph(here / "in.jpg", width, height)
        options, which = weights(here / "weights")
        for way in ("fast", "exact"):
            out = here / f"{way}.jpg"
            call = [sys.executable, "-m", "pellucid", "dereflect", str(here / "in.jpg"), "-o", str(out)]
            run = command([*call, "--way", way, "--device", "cpu", *options])
            with Image.open(out) as written:
                size = written.size
            gibibytes = run.peak / 2**30
            rows.append(
                Row(
                    f"`dereflect --way {way}`, {width}x{height} JPEG",
                    gibibytes,
                    "GiB",
                    MEMORY,
                    peak=run.peak,
                    note=f"{run.seconds:.1f} s; output {size[0]}x{size[1]}; {which}",
                    failure="" if size == (width, height) else "the output has another size",
                )
            )
    return rows


if __name__ == "__main__":
    main(measure, __doc__)
