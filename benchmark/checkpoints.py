"""What `--checkpoint` names: a file of ours with its record beside it, or a published one."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmark import weights
from benchmark.errors import UserError
from benchmark.published import Layout, layout_of

BESIDE = ("weight_files", "vocabulary")  # what a PretrainSpec tells of files beside a method's configuration


def checkpoint_file(path: Path) -> Path:
    """The file behind --checkpoint: a file itself, or model.safetensors in a pretrained folder. Raises UserError."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--checkpoint {path}: {file} is not there; give a .safetensors file or a pretrained/<key> folder")
    return file


def checkpoint_key(path: Path, *, published: bool) -> str:
    """ "file:" and the sha256 of a checkpoint and of the vocabulary beside it: another file, another result."""
    file = checkpoint_file(path)
    beside = ("tokenizer.json", *(("vocab.txt", "tokenizer_config.json") if published else ()))
    files = [item for item in (file, *map(file.with_name, beside)) if item.is_file()]
    return f"file:{'+'.join(weights.file_sha256(item)[:32] for item in files)}"


def of_checkpoint(method: Any, checkpoint: Path, name: str, config: Any, preset: str) -> tuple[Any, Layout | None, Any]:
    """The class, the published layout and the configuration that a checkpoint asks for.

    Raises:
        UserError: the file cannot be read, or the record beside it is of another method.
    """
    state = weights.load(checkpoint_file(checkpoint)) if hasattr(method, "published_layouts") else {}
    layout = layout_of(method, state)
    if layout is None:
        return method, None, stored_config(checkpoint, name, config)
    if layout.target is not None:
        method = layout.target()
        config, _ = method.preset(preset)
    return method, layout, type(config)(**layout.configure(state))  # not the preset's sizes, which the file decides


def stored_config(checkpoint: Path, name: str, config: Any) -> Any:
    """The configuration that lies beside a checkpoint of ours, else the one given.

    Orders of mapping and aggregation, or numbers of heads, change no shape: only the record tells them.

    Raises:
        UserError: the record is of another method, or of settings that this version does not know.
    """
    path = checkpoint_file(checkpoint).with_name("config.json")
    if not path.is_file():
        return config
    try:
        spec = json.loads(path.read_text())["spec"]
        if spec["method"] != name:
            raise UserError(
                f"checkpoint {checkpoint} is of method {spec['method']!r}, not of {name!r}; name that one by --method"
            )
        return type(config)(**{key: value for key, value in spec["config"].items() if key not in BESIDE})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a configuration of {name}; pretrain again with this version") from error


def weight_files(config: Any) -> str:
    """The sha256 of every local file that a field named *weights points to, or to its folder: another file, another result."""
    values = (getattr(config, item.name) for item in fields(config) if item.name.endswith("weights"))
    paths = [Path(value) for value in values if isinstance(value, str) and value]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    found = [weights.file_sha256(file)[:32] for file in files]
    return f"file:{'+'.join(found)}" if found else ""


def fetched_weights(config: Any) -> str:
    """Names of weights that come from elsewhere, "" where all are drawn."""
    values = {item.name: getattr(config, item.name) for item in fields(config) if item.name.endswith("weights")}
    named = [
        f"{name}={value}" for name, value in sorted(values.items()) if isinstance(value, str) and value not in ("", "none")
    ]
    return f"hub:{','.join(named)}" if named else ""
