"""A small network that tells real masks from edited ones: the fewer it tells, the better the edits (section 4.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.device import generator_of
from pellucid.errors import InputError

_SIDE = 64
_BATCH = 32
_CHUNK = 8  # masks shrunk at once
LEAST_MASKS = 8  # of each kind


def real_or_edited(real: Tensor, edited: Tensor, classes: int, *, seed: int = 0, steps: int = 150) -> float:
    """Accuracy, on masks it has not seen, of a network trained to tell the two sets apart: 0.5 is chance, and best.

    Seven tenths of each set train it. It sees where each class is on a grid of 64; of the larger set
    only as many masks as the smaller one has, so that chance is 0.5.

    Args:
        real: label maps ``(N, H, W)``.
        edited: label maps ``(M, H, W)``.
        classes: C, number of classes.
        seed: of weights, batches and of what trains.
        steps: of training.

    Raises:
        InputError: fewer than 8 masks of either kind.
    """
    count = min(len(real), len(edited))
    if count < LEAST_MASKS:
        raise InputError(
            f"telling real from edited masks needs {LEAST_MASKS} of each, found {count}", "give more masks"
        )
    order = [
        torch.randperm(len(each), generator=generator_of(seed, place)) for place, each in enumerate((real, edited))
    ]
    planes = [_shrunk(each[which[:count]], classes) for each, which in zip((real, edited), order, strict=True)]
    trained = max(2, round(0.7 * count))
    x = torch.cat([each[:trained] for each in planes])
    y = torch.cat([torch.zeros(trained), torch.ones(trained)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Judge(classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    draws = generator_of(seed, 2)
    for _ in range(steps):
        some = torch.randint(len(x), (min(_BATCH, len(x)),), generator=draws)
        loss = F.binary_cross_entropy_with_logits(network(x[some]), y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        said = [network(each[trained:]) > 0 for each in planes]
    return float(torch.cat([~said[0], said[1]]).float().mean())


class _Judge(nn.Module):
    """Three strided convolutions and a mean over the picture: ``(B, C, 64, 64) -> (B,)``, positive for edited."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(classes, 24, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1),
            nn.ReLU(),
        )
        self.last = nn.Linear(48, 1)

    def forward(self, planes: Tensor) -> Tensor:
        return self.last(self.layers(planes).mean((2, 3)))[:, 0]


def _shrunk(labels: Tensor, classes: int) -> Tensor:
    """Share of each class in the cells of a grid of 64: ``(N, H, W) -> (N, C, 64, 64)`` float32."""
    found = [
        F.adaptive_avg_pool2d(F.one_hot(chunk.long(), classes).movedim(-1, 1).float(), _SIDE)
        for chunk in labels.cpu().split(_CHUNK)
    ]
    return torch.cat(found)
