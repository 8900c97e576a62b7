"""All figures of one made clip, and their means over a set: text, motion, transparency with and without a true clip.

Sec. IV of the paper has a text score and a dynamic degree, and says that a measure of transparency is lacking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from pellucid.layer_animate.baselines.procedural import named_motion
from pellucid.layer_animate.clips.measured import SIX, measure_alpha
from pellucid.metrics.alpha import alpha_errors, composite_quality, dtssd
from pellucid.metrics.clip_score import Scorer, clip_text_scores, frame_similarity
from pellucid.metrics.cut_out import measure_cut_out
from pellucid.metrics.dynamic_degree import cropped, measure_motion, neighbour_flows, on_colour
from pellucid.metrics.flow import Flow

Figures = dict[str, float | None]  # column -> figure; None where it cannot be asked
NO_CLIP = "n/a (no --clip)"

# Columns of the three tables. Errors of alpha are x 1000, dtSSD x 100; what ends in % is of 100.
FREE = ("border %", "leak %", "holes %", "alpha change %", "flicker %", "base alpha %", "base colour %")
TRUE = ("MAE", "MSE", "Grad", "Conn", "dtSSD", "PSNR", "SSIM")
SEEN = ("text score", "on white", "on black", "like base")  # of CLIP
MOVED = ("dynamic degree", "motion px", "motion %", "motion px inside", "obeyed %")


@dataclass(frozen=True)
class Meter:
    """What clips are measured with.

    Attributes:
        flow: between frames.
        scorer: a CLIP; None leaves its columns empty.
    """

    flow: Flow
    scorer: Scorer | None = None

    def measure(
        self, clip: Tensor, base: Tensor, base_index: int, prompt: str, fps: float, truth: Tensor | None = None
    ) -> Figures:
        """Measure one clip.

        Args:
            clip: ``(F, 4, H, W)``, straight alpha, sRGB in [0, 1].
            base: ``(4, H, W)``, the picture it was made from.
            base_index: which frame of the clip that is, or would be.
            prompt: the text it was made from.
            fps: frames per second.
            truth: the true clip, of the same shape.

        Returns:
            All columns of `FREE` and `MOVED`, of `SEEN` with a scorer, and of `TRUE` where there is a truth: over the
            frames other than the base frame, except dtSSD.

        Raises:
            InputError: shapes that do not belong together, or frames too small for the flow.
            DependencyError: OpenCV or torchmetrics is not installed.
        """
        height, width = clip.shape[-2:]
        frames = on_colour(clip)
        forward = neighbour_flows(frames, self.flow)
        backward = cropped(neighbour_flows(frames.flip(0), self.flow), height, width).flip(0)
        found: Figures = {}
        cut_out = measure_cut_out(clip, base, base_index, cropped(forward, height, width), backward)
        free = (cut_out.border, cut_out.leak, cut_out.holes, cut_out.change, cut_out.flicker)
        free += (cut_out.base_alpha, cut_out.base_colour)
        found |= {key: None if value is None else 100.0 * value for key, value in zip(FREE, free, strict=True)}
        motion = measure_motion(clip, self.flow, fps, flows=forward)
        moved = (float(motion.dynamic), motion.pixels, motion.percent, motion.visible_pixels)
        obeyed = motion_obeyed(clip, prompt)
        moved += (None if obeyed is None else 100.0 * obeyed,)
        found |= dict(zip(MOVED, moved, strict=True))
        made = torch.arange(len(clip)) != base_index  # a base frame that is given back is no achievement
        if self.scorer is not None:
            scores = clip_text_scores(clip, prompt, self.scorer)
            like = frame_similarity(clip[made], base, self.scorer) if bool(made.any()) else None
            found |= dict(zip(SEEN, (scores["grey"], scores["white"], scores["black"], like), strict=True))
        if truth is not None and bool(made.any()):
            found |= alpha_errors(clip[made, 3:], truth[made, 3:])
            found["dtSSD"] = dtssd(clip[:, 3:], truth[:, 3:])  # of neighbours, so all frames are needed
            quality = composite_quality(clip[made], truth[made])
            found |= {"PSNR": quality["PSNR"], "SSIM": quality["SSIM"]}
        return found


def motion_obeyed(clip: Tensor, text: str) -> bool | None:
    """Whether a clip moves as its text says, as far as alpha tells; a guess among six is right one time in six.

    Args:
        clip: ``(F, 4, H, W)``, straight alpha.
        text: the prompt; the motion that it names first counts.

    Returns:
        None where the text names none of `measured.SIX`, or the clip is a single frame.
    """
    told = named_motion(text)
    return measure_alpha(clip[:, 3:]).one_of_six == told if told in SIX and len(clip) > 1 else None


def mean_figures(figures: Sequence[Mapping[str, float | None]]) -> Figures:
    """Mean of each column over clips, over those that have it; None where none has."""
    columns = dict.fromkeys(key for each in figures for key in each)
    known = {key: [value for each in figures if (value := each.get(key)) is not None] for key in columns}
    return {key: fmean(values) if values else None for key, values in known.items()}
