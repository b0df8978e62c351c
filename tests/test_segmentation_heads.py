"""The heads of published segmentation protocols: shapes, what equals the libraries and papers, and what they refuse."""

from __future__ import annotations

from math import ceil

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from benchmark.errors import Unsupported, UserError
from benchmark.types import Protocol
from tasks.heads.linear import LastLinear
from tasks.heads.setr import SetrHead
from tasks.heads.unet import NativeUnet
from tasks.published.segmentation import PROTOCOLS
from tasks.segmentation_fit import head_of

RESNET = ((8, 4), (16, 8), (24, 16), (32, 32))
RESNET50 = ((256, 4), (512, 8), (1024, 16), (2048, 32))
VIT = ((60, 16),)
PAPER = (256, 128, 64, 32, 16)


def native(info: tuple[tuple[int, int], ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, c, ceil(size[0] / s), ceil(size[1] / s), generator=draw) for c, s in info)


def count(*parts: torch.nn.Module) -> int:
    return sum(item.numel() for part in parts for item in part.parameters())


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_logits_have_the_size_of_the_image_and_every_parameter_is_trained(size: tuple[int, int]) -> None:
    heads = [
        (NativeUnet(RESNET, (32, 16, 12, 8, 8), 3), RESNET),
        (SetrHead(VIT, 12, (16, 12, 8, 8), 3), VIT),
        (SetrHead(((60, 8),), 12, (16, 12, 8, 8), 3), ((60, 8),)),
        (LastLinear(RESNET, 3), RESNET),
        (LastLinear(VIT, 3), VIT),
    ]
    for head, info in heads:
        logits = head(native(info, size), size)
        assert logits.shape == (2, 3, *size)
        logits.square().sum().backward()
        assert all(item.grad is not None for item in head.parameters())


def test_the_unet_is_that_of_the_library_but_for_the_skip_connection_of_stride_2() -> None:
    theirs = smp.Unet("resnet50", encoder_weights=None)
    ours = NativeUnet(RESNET50, PAPER, 1)
    lacking = 3 * 3 * 64 * 32  # its 64 channels of stride 2, into the block of 32
    assert count(ours) == count(theirs.decoder, theirs.segmentation_head) - lacking
    shapes = {name: item.shape for name, item in theirs.decoder.state_dict().items()}
    other = {name for name, item in ours.decoder.state_dict().items() if item.shape != shapes.pop(name)}
    assert other == {"blocks.3.conv1.0.weight"}
    assert not shapes


def test_the_unet_gives_what_the_library_gives_where_that_skip_connection_is_black() -> None:
    theirs = smp.Unet("resnet18", encoder_weights=None).eval()
    info = ((64, 4), (128, 8), (256, 16), (512, 32))
    ours = NativeUnet(info, PAPER, 1).eval()
    state = theirs.decoder.state_dict()
    state["blocks.3.conv1.0.weight"] = state["blocks.3.conv1.0.weight"][:, :64]  # comes first in the concatenation
    ours.decoder.load_state_dict(state)
    ours.logits.load_state_dict(theirs.segmentation_head[0].state_dict())
    with torch.no_grad():
        features = theirs.encoder(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        features[1] = torch.zeros_like(features[1])
        expected = theirs.segmentation_head(theirs.decoder(features))
        torch.testing.assert_close(ours(features[2:], (64, 64)), expected)


def test_the_decoder_on_a_vision_transformer_has_the_layers_of_the_paper() -> None:
    head = SetrHead(((768, 16),), 768, (512, 256, 128, 64), 1)
    kernels = [tuple(item.weight.shape) for item in head.modules() if isinstance(item, torch.nn.Conv2d)]
    assert kernels == [(768, 768, 1, 1), (512, 768, 3, 3), (256, 512, 3, 3), (128, 256, 3, 3), (64, 128, 3, 3), (1, 64, 3, 3)]
    with torch.no_grad():
        assert head.blocks(head.project(native(((768, 16),), (32, 32))[0])).shape[-2:] == (32, 32)


def test_maps_that_a_head_cannot_read_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"maps that double to stride 32, not \[4, 8\]"):
        NativeUnet(RESNET[:2], PAPER, 1)
    with pytest.raises(Unsupported, match="reads one map, and this method gives 4"):
        SetrHead(RESNET, 12, (16, 8), 1)
    with pytest.raises(ValueError, match="2 maps for a SETR decoder over one"):
        SetrHead(VIT, 12, (16, 8), 1)(native(VIT * 2, (32, 32)), (32, 32))
    with pytest.raises(ValueError, match="at least one"):
        LastLinear((), 1)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_literal_has_one_head_for_many_maps_and_one_for_the_map_of_a_vision_transformer(protocol: Protocol) -> None:
    linear = protocol.name.startswith("linear")
    assert isinstance(head_of(protocol, RESNET50, 1), LastLinear if linear else NativeUnet)
    assert isinstance(head_of(protocol, ((768, 16),), 1), LastLinear if linear else SetrHead)


def test_an_unknown_head_is_named() -> None:
    changed = Protocol(
        name="x", version=1, task="segmentation", primary="p", settings=(("decoder_channels", "8"), ("head", "y"))
    )
    with pytest.raises(UserError, match="x: no head 'y'"):
        head_of(changed, RESNET, 1)
