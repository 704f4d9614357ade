"""Train the network `fast` of the preset cifar10 in PyTorch: a side of benchmarks/cifar10.py.

    python benchmarks/peers/torch_cifar.py STEPS ROUNDS

Prints as one line of JSON how many images per second a bare loop trains on random images in memory: no feeding, no
augmentation, SGD instead of Muon. Needs torch, and nothing of this repository.
"""

import json
import sys
import time
from importlib.metadata import version
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

FILTERS, BATCH_SIZE, EDGE = (64, 256, 256), 1000, 32


class Group(nn.Module):
    """Convolution, max-pool, BatchNorm, ReLU, convolution, BatchNorm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n_out, momentum=0.4, eps=1e-5) for _ in range(2))
        for norm in self.norms:
            norm.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norms[0](functional.max_pool2d(self.first(x), 2)))
        return functional.relu(self.norms[1](self.second(x)))


class Fast(nn.Module):
    """darkroom.networks.architectures.fast for ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.requires_grad_(False)
        widths = (24, *FILTERS)
        self.groups = nn.Sequential(*(Group(*pair) for pair in pairwise(widths)))
        self.logits = nn.Linear(FILTERS[-1], 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.groups(functional.relu(self.whitening(images / 255)))
        return self.logits(x.amax(dim=(2, 3)) / 8)


def main() -> None:
    n_steps, n_rounds = int(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(0)
    network = Fast().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01, momentum=0.6, nesterov=True)
    images = torch.randint(0, 256, (n_steps * BATCH_SIZE, 3, EDGE, EDGE), dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),))
    speeds = []
    for _ in range(n_rounds + 1):
        started = time.perf_counter()
        for step in range(n_steps):
            chosen = slice(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
            batch = images[chosen].to(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = functional.cross_entropy(network(batch), labels[chosen], label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        speeds.append(len(images) / (time.perf_counter() - started))
    n_parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    result = {
        "images_per_second": speeds[1:],
        "n_trained_parameters": n_parameters,
        "versions": {"torch": version("torch")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
