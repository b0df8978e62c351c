"""torchxrayvision's supervised networks: a reference that looks at images only (Cohen et al., arXiv 2111.00595).

Their features, not their answers: the classifiers are left out, so no order of labels is ever assumed. The networks are
timm's, which have the same layers under the same names. Images are padded to a square, where the library cuts the middle out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.request import urlopen

from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import store
from benchmark import weights as checkpoints
from benchmark.errors import Unavailable, UserError
from benchmark.types import PRESETS, Features, InputSpec, MethodCard, Recipe
from methods.base import check_range
from methods.encoders import build_image_tower

DEFAULT = "resnet50-res512-all"
# pixels from -1024 to 1024: (2 p - 1) * 1024 = (p - 0.5) / (1 / 2048)
MEAN, STD = (0.5,), (1 / 2048,)
LEFT_OUT = ("classifier.", "fc.", "op_threshs")
TIMEOUT = 10  # seconds without an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class XrvConfig:
    """weights: a name of torchxrayvision or a local file with a state dict. image_size: 0 for that of the network."""

    weights: str = DEFAULT
    image_size: int = 0

    def __post_init__(self) -> None:
        if self.weights in ("", "none"):
            raise UserError(f"weights={self.weights!r} would be a random start; give weights={DEFAULT} or a local file")
        if self.image_size:
            check_range(self, "image_size", 32, 4096)


class Xrv(nn.Module):
    """A DenseNet-121 or a ResNet-50 that was trained to tell findings apart.

    Raises:
        Unavailable: weights that are neither here nor can be fetched. UserError: a file of another network.
    """

    name: ClassVar[str] = "xrv"
    version: ClassVar[int] = 2  # 2: probes read features before they are normalised
    card: ClassVar[MethodCard] = MethodCard(
        title="torchxrayvision (supervised)",
        paper="https://arxiv.org/abs/2111.00595",
        year=2021,
        license="Apache-2.0",
        # of resnet50-res512-all; the DenseNets called "all" saw CheXpert, MIMIC-CXR and Open-i as well
        pretraining_data=(
            "PadChest",
            "ChestX-ray14",
            "RSNA Pneumonia",
            "SIIM-ACR",
            "VinDr-CXR",
            "CheXpert",
            "MIMIC-CXR",
            "Open-i",
        ),
    )

    def __init__(self, config: XrvConfig) -> None:
        super().__init__()
        self.config: Any = config
        file = weights_file(config.weights)
        state = features_state(checkpoints.load(file))
        encoder, size = ("densenet121", 224) if "features.conv0.weight" in state else ("resnet50", 512)
        size = config.image_size or size
        self.input = InputSpec(size=size, channels=1, mean=MEAN, std=STD)
        self.tower = build_image_tower(encoder, "none", size, 1)
        self.feature_info = self.tower.info
        model: Any = self.tower.model
        checkpoints.apply(model, state, f"weights {file}")

    @classmethod
    def preset(cls, preset: str) -> tuple[XrvConfig, Recipe]:
        """The same at every preset; no steps. Raises UserError for an unknown preset."""
        if preset not in PRESETS:
            raise UserError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        return XrvConfig(), Recipe(steps=0)

    @classmethod
    def build(cls, config: Any, tokenizer: Tokenizer | None) -> Self:
        """The trained network; the tokenizer is not used. Raises Unavailable if the weights cannot be had."""
        return cls(config)

    def encode_image(self, images: Tensor) -> Features:
        """images (B, 1, h, w) float32 in -1024 to 1024 -> pooled (B, D) mean of the last map, tokens (B, P, D)."""
        tokens = self.tower.forward_tokens(images)
        return Features(F.normalize(tokens.float().mean(dim=1), dim=-1), tokens, None)

    def tower_features(self, images: Tensor) -> Tensor:
        """images (B, 1, h, w) -> (B, D) float32, what probes read: the mean of the last map, not normalised."""
        return self.tower.forward_tokens(images).float().mean(dim=1)

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, 1, h, w) -> maps as `feature_info` says, strides 4 to 32."""
        return self.tower.maps(images)

    def similarity(self, image: Features, text: Features) -> Tensor:
        """(N, M) float32 cosine of the pooled vectors."""
        return image.pooled @ text.pooled.T


def features_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the library's DenseNet or ResNet, or of the ResNet's inner model, without its classifier."""
    inner = {key.removeprefix("model."): value for key, value in state.items()}
    return {key: value for key, value in inner.items() if not key.startswith(LEFT_OUT)}


def weights_file(name: str) -> Path:
    """The local file of a name, fetched if need be, or the file that is named.

    The library's DenseNets are published as whole pickled models, which nothing here unpickles.

    Raises:
        Unavailable: no such file, no network, or a pickled model.
    """
    urls = release()
    if name not in urls:
        if Path(name).is_file():
            return Path(name)
        raise Unavailable(f"weights {name!r} are no file and no name of torchxrayvision", f"give a file, {', '.join(urls)}")
    if not urls[name].endswith("-state.pt"):
        convert = (
            f"import torch, torchxrayvision as xrv; torch.save(xrv.models.DenseNet(weights='{name}').state_dict(), '{name}.pt')"
        )
        raise Unavailable(
            f"weights {name} are published as a pickled model, which may carry code and is never unpickled here",
            f'convert them in a place you trust by python -c "{convert}" and give --set weights={name}.pt',
        )
    file = cache() / urls[name].rsplit("/", 1)[1]
    if not file.is_file():
        fetch(name, urls[name], file)
    return file


def release() -> dict[str, str]:
    """Names of torchxrayvision's weights and where they are published."""
    with warnings.catch_warnings():  # the library turns every warning off when it is imported
        from torchxrayvision.models import model_urls

    return {name: str(item["weights_url"]) for name, item in model_urls.items() if "-res" in name}


def cache() -> Path:
    """The folder where torchxrayvision keeps what it fetched."""
    with warnings.catch_warnings():
        from torchxrayvision.utils import get_cache_dir

    return Path(get_cache_dir()).expanduser()


def fetch(name: str, url: str, file: Path) -> None:
    """Downloads a file whole or not at all. Raises Unavailable, after ten seconds without an answer."""
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  (an address of the library's own table)
            data: bytes = answer.read()
    except (HTTPException, OSError, ValueError) as error:
        raise Unavailable(
            f"weights {name} are not in {file.parent} and cannot be fetched ({type(error).__name__})",
            f"run where github.com can be reached, or put {url} there, or give --set weights=FILE",
        ) from error
    store.write(file, data)
