"""What comes from the Hugging Face hub: asked for once, and said at once where it cannot be had."""

from __future__ import annotations

import json
import socket
from collections.abc import Container
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from tokenizers import Tokenizer

from benchmark.data.text import SPECIAL
from benchmark.errors import Unavailable, UserError
from benchmark.weights import file_sha256

HUB_ERRORS = (OSError, RuntimeError, ValueError)  # what the hub's clients raise


def check_hub(what: str, repository: str | None, file: str, remedy: str) -> None:
    """Raises Unavailable at once where a file is neither cached nor reachable; the hub's client tries for a minute."""
    if repository and isinstance(try_to_load_from_cache(repository, file), str):
        return
    if HF_HUB_OFFLINE:
        raise Unavailable(f"{what} are not in the local cache and HF_HUB_OFFLINE forbids the Hugging Face hub", remedy)
    host = urlparse(ENDPOINT)
    if getproxies():
        return  # then a direct connection says nothing
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError as error:
        raise Unavailable(f"{what} are not in the local cache and {host.hostname} cannot be reached", remedy) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises UserError where it is cut short or something else."""
    try:
        text = path.read_text(encoding="utf-8")
        vocabulary = json.loads(text)["model"]["vocab"]
        if not vocabulary:
            raise ValueError("no words")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or no tokenizer; copy it again from beside the checkpoint it belongs to") from error
    found: Tokenizer = Tokenizer.from_str(text)
    return found


def vocabulary_key(text: str) -> str:
    """What tells a vocabulary of `--vocabulary` from another: the sha256 of its file, or its name on the hub.

    Raises:
        UserError: there is no such file or folder.
    """
    return text if not text or text.startswith("hub:") else file_sha256(_vocabulary_file(text))[:32]


def read_vocabulary(text: str) -> Tokenizer:
    """The tokenizer of `--vocabulary`: tokenizer.json or a BERT's vocab.txt, the folder of one, or hub:NAME.

    Raises:
        UserError: no such file, or a tokenizer without BERT's special words.
        Unavailable: the hub cannot be reached.
    """
    name = text.removeprefix("hub:")
    file = Path("no file") if name != text else _vocabulary_file(text)
    if file.name == "vocab.txt":  # looked at first: a tokenizer cannot be made without some of them
        _require_special(text, file.read_text(encoding="utf-8", errors="replace").splitlines())
    found = tokenizer_beside(file, name)
    _require_special(text, found.get_vocab())
    return found


def _require_special(text: str, words: Container[str]) -> None:
    lacking = [word for word in SPECIAL if word not in words]
    if lacking:
        raise UserError(f"--vocabulary {text} has no {', '.join(lacking)}; give the WordPiece vocabulary of a BERT")


def _vocabulary_file(text: str) -> Path:
    names = ("tokenizer.json", "vocab.txt")
    tried = [Path(text) / name for name in names] if Path(text).is_dir() else [Path(text)]
    file = next((path for path in tried if path.is_file() and path.name in names), None)
    if file is None:
        raise UserError(f"--vocabulary {text}: no {' or '.join(names)} is there; name the file, its folder, or hub:NAME")
    return file


def tokenizer_beside(file: Path, hub_name: str) -> Tokenizer:
    """The vocabulary of a published checkpoint: tokenizer.json or vocab.txt beside it, else the hub's.

    A vocab.txt alone is read as BERT's lower-casing WordPiece; a tokenizer_config.json beside it may say otherwise.

    Raises:
        Unavailable: neither is there.
    """
    from transformers import AutoTokenizer, BertTokenizerFast

    if (path := file.with_name("tokenizer.json")).is_file():
        return read_tokenizer(path)
    remedy = (
        f"put tokenizer.json (or a BERT's vocab.txt) of {hub_name} beside {file}, or run where huggingface.co can be reached"
    )
    try:
        if file.with_name("vocab.txt").is_file():
            found: Tokenizer = BertTokenizerFast.from_pretrained(file.parent, local_files_only=True).backend_tokenizer
            return found
        check_hub(f"the vocabulary of checkpoint {file}", hub_name, "config.json", remedy)
        fetched: Tokenizer = AutoTokenizer.from_pretrained(hub_name).backend_tokenizer
    except HUB_ERRORS as error:
        raise Unavailable(f"the vocabulary of checkpoint {file} cannot be had ({type(error).__name__})", remedy) from error
    return fetched
