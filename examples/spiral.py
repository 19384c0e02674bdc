"""A complete task that classifies the points of a three-armed spiral. `relight run examples/spiral.py:Spiral`"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from relight import Data, Task, TaskConfig, option


class Spiral(Task):
    """A small network separates the three arms of a spiral."""

    class Config(TaskConfig):
        hidden: int = option(64, "Units in each hidden layer.", ge=1, le=4096)
        noise: float = option(0.1, "Standard deviation of the noise in each point's angle.", ge=0, le=1)
        epochs: int = option(40, "Passes over the training data.", group="Optimization", ge=1)
        lr: float = option(0.01, "Peak learning rate.", group="Optimization", gt=0, le=1)

    best_metric = "accuracy"

    def build_model(self):
        hidden = self.config.hidden
        return nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)
        )

    def build_data(self):
        generator = torch.Generator().manual_seed(0)  # a resume needs exactly the same data
        arm = torch.arange(3000) % 3
        radius = torch.rand(3000, generator=generator)
        angle = 5 * radius + 2.1 * arm + self.config.noise * torch.randn(3000, generator=generator)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return Data(
            train=TensorDataset(points[600:], arm[600:]),
            validation=TensorDataset(points[:600], arm[:600]),
        )

    def step(self, model, batch):
        points, arm = batch
        logits = model(points)
        accuracy = (logits.detach().argmax(1) == arm).float().mean()
        return {"loss": F.cross_entropy(logits, arm), "accuracy": accuracy}
