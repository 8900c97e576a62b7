"""stand-in"""

import torch
from torch import Tensor


def reconstruct(network, z: Tensor) -> Tensor:
    return network.decode(z).argmax(1).to(torch.uint8)


class Scores:
    def __init__(self, classes):
        self.c = len(classes)
        self.m = torch.zeros(self.c, self.c, dtype=torch.int64)

    def update(self, pred, target):
        self.m += (
            torch.bincount((target.long() * self.c + pred.long()).flatten(), minlength=self.c**2)
            .view(self.c, self.c)
            .cpu()
        )

    def figures(self):
        m = self.m.double()
        tp = m.diag()
        u = m.sum(0) + m.sum(1) - tp
        return {"accuracy": float(tp.sum() / m.sum()), "miou": float((tp / u)[u > 0].mean())}
