"""The multi-step loss and its terms (Sec. 3.1, Eq. 1-5).

Legend: T target transmission, T_hat its prediction, R true reflection, R_hat its prediction, t step, S number of steps
(the paper's M), x_t input of step t. Pictures are ``(B, 3, H, W)``; the paper's sums over the data set are means here,
so that a loss does not depend on the size of pictures or batches.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError

ReflectionTarget = Literal["residual", "same", "first"]


class Features(Protocol):
    """A frozen network or filter bank that turns a picture in [0, 1] into feature maps."""

    def __call__(self, picture: Tensor) -> Sequence[Tensor]: ...


class StepLoss(Protocol):
    """The loss of one step: named terms, already weighted; their sum is L^t (Eq. 4)."""

    def __call__(
        self, T_hat: Tensor, T: Tensor, R_hat: Tensor | None, R: Tensor | None, r_weight: Tensor | float
    ) -> dict[str, Tensor]: ...


def pixel_loss(T_hat: Tensor, T: Tensor) -> Tensor:
    """Mean squared error of one layer; Eq. 1 is this for T plus this for R."""
    return F.mse_loss(T_hat, T)


def log_pixel_loss(T_hat: Tensor, T: Tensor, floor: float = 5e-3) -> Tensor:
    """Mean over samples of log(MSE + floor): what PSNR measures, in place of Eq. 1's T term.

    Ours, not the paper's. Under a plain mean the few samples with strong reflections rule, and a network learns to
    darken pictures that had next to nothing to remove. The floor (5e-3 is 23 dB) is where more likeness counts less
    and less: much lower, and leaving everything as it is pays best. Scaled by 1/20, to be as large as the plain term.
    """
    per_sample = (T_hat - T).square().mean(dim=(1, 2, 3))  # (B,)
    return torch.log(per_sample + floor).mean() / 20


def reflection_loss(R_hat: Tensor, R: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """The R term of Eq. 1, with a weight a sample ``(B,)``: less, say, where R was only derived as I - T."""
    per_sample = ((R_hat - R) ** 2).mean(dim=(1, 2, 3))  # (B,)
    return (per_sample * weight).mean()


def feature_loss(T_hat: Tensor, T: Tensor, features: Features) -> Tensor:
    """Sum over layers of the mean L1 distance of features (Eq. 2; VGG19 conv1_1 and conv4_1 in the paper)."""
    pairs = zip(features(T_hat), features(T), strict=True)
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).sum()


def gradient_loss(T_hat: Tensor, T: Tensor) -> Tensor:
    """Mean squared error of forward differences, in x plus in y (Eq. 3)."""
    difference = T_hat - T
    in_x = difference[..., :, 1:] - difference[..., :, :-1]
    in_y = difference[..., 1:, :] - difference[..., :-1, :]
    return in_x.square().mean() + in_y.square().mean()


class ReflectionStepLoss(nn.Module):
    """L^t = L_pixel + L_feat + L_grad (Eq. 4).

    Args:
        features: what Eq. 2 compares; None leaves the term out.
        feature_weight: 1 in the paper. With VGG19 the term is about a hundred times the pixel term.
        feature_on_reflection: compare the features of R too; the paper compares T alone.
        pixel: ``"mse"`` is Eq. 1; ``"log"`` is `log_pixel_loss`.
        pixel_floor: the floor of `log_pixel_loss`.
    """

    def __init__(
        self,
        features: Features | None,
        feature_weight: float = 1.0,
        feature_on_reflection: bool = False,
        pixel: Literal["mse", "log"] = "mse",
        pixel_floor: float = 5e-3,
    ) -> None:
        super().__init__()
        if pixel not in ("mse", "log"):
            raise ConfigError(f"pixel loss {pixel!r} is not known", "use mse, log")
        self.pixel = pixel
        self.pixel_floor = pixel_floor
        self.features = features
        self.feature_weight = feature_weight
        self.feature_on_reflection = feature_on_reflection

    def forward(
        self, T_hat: Tensor, T: Tensor, R_hat: Tensor | None, R: Tensor | None, r_weight: Tensor | float = 1.0
    ) -> dict[str, Tensor]:
        plain = self.pixel == "mse"
        terms = {"pixel": pixel_loss(T_hat, T) if plain else log_pixel_loss(T_hat, T, self.pixel_floor)}
        if R_hat is not None and R is not None:
            terms["reflection"] = reflection_loss(R_hat, R, r_weight)
        if self.features is not None:
            terms["feature"] = self.feature_weight * feature_loss(T_hat, T, self.features)
            if self.feature_on_reflection and R_hat is not None and R is not None:
                terms["feature_r"] = self.feature_weight * feature_loss(R_hat, R, self.features)
        terms["gradient"] = gradient_loss(T_hat, T)
        return terms


class MultiStepLoss(nn.Module):
    """Feed a network its own output and add up the losses of all steps: L_total = sum_t L^t (Eq. 5).

    Works for any image-to-image network whose input and output are alike: ``model(x, *conditions)`` returns the
    prediction, or the prediction and an estimate of what was taken away (here R).

    Args:
        model: the network; the same weights serve every step.
        step_loss: the terms of one step.
        steps: S; 2 at first and 3 later in the paper.
        detach: cut the gradient between steps. The paper does not say; we let it run through all steps.
        r_multistep: target of R at t >= 2, where the paper is silent. ``"residual"``: what is left to remove,
            clamp(T_{t-1} - T, 0, 1); ``"same"``: R again, Eq. 1 to the letter; ``"first"``: no R term after step 1.
        factor: multiplies L_total; ``steps=1, factor=3`` is the "3x1-step" row of Table 5.
        condition: computes the conditions anew from x_t at every step; by default they stay those of the first step,
            "ensuring consistent depth estimation throughout the process" (Sec. 3).

    Raises:
        ConfigError: fewer than 1 step, or an unknown ``r_multistep``.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        step_loss: StepLoss,
        steps: int = 2,
        *,
        detach: bool = False,
        r_multistep: ReflectionTarget = "residual",
        factor: float = 1.0,
        condition: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"a multi-step loss needs at least 1 step, found {steps}")
        if r_multistep not in get_args(ReflectionTarget):
            known = ", ".join(get_args(ReflectionTarget))
            raise ConfigError(f"r_multistep {r_multistep!r} is not known", f"use {known}")
        self.model = model
        self.step_loss = step_loss
        self.steps = steps
        self.detach = detach
        self.r_multistep = r_multistep
        self.factor = factor
        self.condition = condition

    def forward(
        self,
        x: Tensor,
        T: Tensor,
        *conditions: Tensor,
        R: Tensor | None = None,
        r_weight: Tensor | float = 1.0,
        backward: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run all steps.

        Args:
            x: x_1, the picture to restore ``(B, C, H, W)``.
            T: target of every step, same shape.
            conditions: further inputs of the model, such as the ranged depth map.
            R: true reflection ``(B, 3, H, W)``, when known.
            r_weight: weight of the R term, one number or one a sample ``(B,)``.
            backward: called with each step's loss as soon as it is known. With ``detach`` this frees a step's
                activations before the next one, a third of the memory at three steps.

        Returns:
            L_total (scalar; detached when ``backward`` is given) and the terms, ``"<term>_<t>"`` and ``"loss_<t>"``,
            detached.
        """
        losses: list[Tensor] = []
        seen: dict[str, Tensor] = {}
        for t in range(1, self.steps + 1):
            if t > 1 and self.condition is not None:
                conditions = self.condition(x)
            output = self.model(x, *conditions)
            T_hat, R_hat = output if isinstance(output, tuple) else (output, None)
            terms = self.step_loss(T_hat, T, R_hat, self._reflection_target(t, x, T, R), r_weight)
            loss = torch.stack(list(terms.values())).sum() * self.factor
            seen |= {f"{name}_{t}": term.detach() for name, term in terms.items()}
            seen[f"loss_{t}"] = loss.detach()
            if backward is not None and self.detach:
                backward(loss)
                loss = loss.detach()
            losses.append(loss)
            x = T_hat.detach() if self.detach else T_hat
        total = torch.stack(losses).sum()
        if backward is not None and not self.detach:
            backward(total)
            total = total.detach()
        return total, seen

    def _reflection_target(self, t: int, x: Tensor, T: Tensor, R: Tensor | None) -> Tensor | None:
        if R is None or t == 1 or self.r_multistep == "same":
            return R
        if self.r_multistep == "first":
            return None
        return (x.detach() - T).clamp(0, 1)
