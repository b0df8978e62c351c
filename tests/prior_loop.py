"""PRIOR's local alignment, prototype and matching terms as a plain loop over reports: the oracle of the vectorised ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from methods.prior_alignment import LocalCrossAttention, image_local_loss, pack, pad, resize_reports, text_local_loss
from methods.prior_prototypes import PrototypeBank, divergence, prototype_loss
from methods.prior_reconstruction import match, reorder, sentence_loss

TEMPERATURE = 0.9
SCALE = 100.0


@dataclass(frozen=True)
class Terms:
    """The modules of the terms, and a batch: patches (B, P, D), sentences (B, S, D), mask (B, S), predicted (B, Q, D)."""

    attention: LocalCrossAttention
    predictor: nn.Module
    bank: PrototypeBank
    patches: Tensor
    sentences: Tensor
    mask: Tensor
    predicted: Tensor

    def leaves(self) -> list[Tensor]:
        modules = (self.attention, self.predictor, self.bank)
        return [self.patches, self.sentences, self.predicted, *(item for module in modules for item in module.parameters())]


def setup(batch: int, patches: int, width: int, prototypes: int, lengths: Tensor, queries: int = 16) -> Terms:
    """Small random modules and a ragged batch."""
    torch.manual_seed(0)
    predictor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    sentences = torch.randn(batch, mask.shape[1], width).requires_grad_()
    return Terms(
        LocalCrossAttention(width), predictor, PrototypeBank(prototypes, width),
        torch.randn(batch, patches, width).requires_grad_(), sentences, mask,
        torch.randn(batch, queries, width).requires_grad_(),
    )  # fmt: skip


def vectorised(terms: Terms) -> Tensor:
    """As `PRIOR.terms`, over the whole batch at once; without noise, so that both ways have the same value."""
    vectors, mask = resize_reports(terms.sentences, terms.mask, terms.predicted.shape[1])
    raw = pack(vectors, mask)
    logits = terms.bank.logits(raw)
    prototypes = terms.bank.mix(logits, TEMPERATURE, noisy=False)
    reports = pad(prototypes, mask)
    of_patches, _, of_sentences, _ = terms.attention(terms.patches, reports, mask)
    ordered = reorder(terms.predicted, match(terms.predicted, reports))
    found = (
        image_local_loss(terms.patches, of_patches, terms.predictor),
        text_local_loss(reports, of_sentences, mask, torch.tensor(SCALE)),
        prototype_loss(prototypes, raw),
        sentence_loss(ordered, reports),
        divergence(logits, terms.bank.logits(pack(ordered, mask))),
    )
    return torch.stack(found)


def looped(terms: Terms) -> Tensor:
    """The same five terms, report by report, as the released code goes through them."""
    queries = terms.predicted.shape[1]
    image: list[Tensor] = []
    text: list[Tensor] = []
    matching: list[Tensor] = []
    distance: list[Tensor] = []
    kullback: list[Tensor] = []
    for place in range(len(terms.patches)):
        patches, sentences = terms.patches[place], terms.sentences[place][terms.mask[place]][:queries]
        count = len(sentences)
        logits = sentences @ terms.bank.embed.weight.T
        prototypes = (logits / TEMPERATURE).softmax(dim=1) @ terms.bank.embed.weight
        distance.append((prototypes - sentences).abs().sum())
        attention, scale = terms.attention, patches.shape[1] ** -0.5
        to_sentences = (attention.query1(patches) @ attention.key2(prototypes).T * scale).sigmoid()
        to_patches = (attention.query2(prototypes) @ attention.key1(patches).T * scale).sigmoid()
        of_patches, of_sentences = to_sentences @ attention.value2(prototypes), to_patches @ attention.value1(patches)
        forth = F.cosine_similarity(terms.predictor(patches), of_patches.detach(), dim=1).mean()
        back = F.cosine_similarity(terms.predictor(of_patches), patches.detach(), dim=1).mean()
        image.append(-(forth + back) / 2)
        one, other, target = F.normalize(prototypes, dim=1), F.normalize(of_sentences, dim=1), torch.arange(count)
        both = (F.cross_entropy(SCALE * other @ one.T, target), F.cross_entropy(SCALE * one @ other.T, target))
        text.append((both[0] + both[1]) / 2)
        padded = torch.cat([prototypes, prototypes.new_zeros(queries - count, prototypes.shape[1])])
        predicted = terms.predicted[place]
        cost = torch.cdist(predicted.detach(), padded.detach(), p=1).numpy()
        columns = linear_sum_assignment(cost)[1]
        ordered = predicted[torch.as_tensor(columns).argsort()]
        matching.append((ordered - padded).abs().mean())
        true, found = logits.log_softmax(dim=1), (ordered[:count] @ terms.bank.embed.weight.T).log_softmax(dim=1)
        kullback.append((true.exp() * (true - found)).sum())
    number = int(terms.mask[:, :queries].sum())
    means = [torch.stack(item).mean() for item in (image, text, matching)]
    return torch.stack([
        means[0], means[1], torch.stack(distance).sum() / (number * terms.patches.shape[2]), means[2],
        torch.stack(kullback).sum() / number,
    ])  # fmt: skip
