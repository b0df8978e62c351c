"""How hard the phantom is: a small convolutional network learns it, logistic regression on pixels lags behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmark.data.phantom import PhantomSource, open_source
from benchmark.data.sources import SourceOptions

SIZE, TRAIN, TEST, EPOCHS, BATCH = 96, 4000, 1000, 8, 32


def frontal(source: PhantomSource, split: str, count: int) -> tuple[Tensor, Tensor]:
    records = [record for record in source.records if record.split == split and record.view != "LATERAL"][:count]
    assert len(records) == count
    images = torch.from_numpy(np.stack([source.image(record) for record in records]))
    return images[:, None], torch.tensor([record.labels for record in records])


def scores(labels: Tensor, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    found = []
    for column in range(labels.shape[1]):
        known = ~torch.isnan(labels[:, column]).numpy()
        found.append(roc_auc_score(labels[known, column].numpy(), predicted[known, column]))
    return np.array(found)


def linear_scores(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> NDArray[np.float64]:
    """The better of two penalties and of two resolutions for each class, chosen on the test set: generous on purpose."""
    best = np.zeros(train[1].shape[1])
    for side in (32, 48):
        rows = [nn.functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1).numpy() for images, _ in (train, test)]
        mean, spread = rows[0].mean(0), rows[0].std(0) + 1e-3
        rows = [(item - mean) / spread for item in rows]
        for penalty in (1e-4, 3e-3):
            columns = []
            for column in range(train[1].shape[1]):
                known = ~torch.isnan(train[1][:, column]).numpy()
                model = LogisticRegression(C=penalty, max_iter=1000).fit(rows[0][known], train[1][known, column].numpy())
                columns.append(model.decision_function(rows[1]))
            best = np.maximum(best, scores(test[1], np.stack(columns, 1)))
    return best


class SmallNetwork(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = ((1, 16, 2), (16, 32, 1), (32, 48, 2), (48, 64, 1), (64, 96, 2), (96, 96, 1), (96, 128, 2), (128, 128, 1))
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b, stride in widths
        ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(256, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images.float() / 128 - 1)
        result: Tensor = self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
        return result


def network_scores(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> NDArray[np.float64]:
    torch.manual_seed(0)
    network = SmallNetwork(train[1].shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    steps = EPOCHS * (TRAIN // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN)[: TRAIN // BATCH * BATCH].view(-1, BATCH):
            move = torch.randint(-5, 6, (2,)).tolist()
            images, labels = torch.roll(train[0][rows], move, (2, 3)), train[1][rows]
            losses = nn.functional.binary_cross_entropy_with_logits(network(images), torch.nan_to_num(labels), reduction="none")
            loss = (losses * ~torch.isnan(labels)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return scores(test[1], torch.cat([network(part) for part in test[0].split(100)]).double().numpy())


@pytest.mark.slow
def test_findings_can_be_learned_by_a_small_network_but_not_by_a_linear_model() -> None:
    source = open_source(f"train=5000,val=1,test=1300,size={SIZE}", SourceOptions(preset="small"))
    train, test = frontal(source, "train", TRAIN), frontal(source, "test", TEST)
    linear, network = linear_scores(train, test), network_scores(train, test)
    for name, rate, low, high in zip(source.classes, np.nanmean(train[1].numpy(), 0), linear, network):
        print(f"{name:28s} prevalence {rate:.3f}  linear {low:.3f}  network {high:.3f}")
    print(f"macro: linear {linear.mean():.3f}, network {network.mean():.3f}")
    assert network.mean() >= 0.85
    assert network.min() >= 0.65
    assert linear.mean() <= network.mean() - 0.05
