"""tell what can run here and what cannot: versions, GPU, data roots, free space"""

from __future__ import annotations

import argparse
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmark doctor
  python -m benchmark doctor --out runs/mimic               also removes what killed runs have left there
"""
NEEDED = (
    "torch", "torchvision", "timm", "transformers", "tokenizers", "torchxrayvision", "accelerate", "safetensors", "numpy",
    "scipy", "pandas", "pyarrow", "scikit-learn", "segmentation-models-pytorch", "mmdet", "mmengine", "pycocotools", "pillow",
    "tabulate", "tqdm", "nvidia-ml-py",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `doctor`."""
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of results (default: runs)")


def main(arguments: argparse.Namespace) -> int:
    """Prints findings; 1 if something that `run` needs is missing."""
    problems = _packages() + _torch() + _folders(arguments.out)
    for problem in problems:
        print(f"PROBLEM  {problem}")
    print("\nno problem found; try: python -m benchmark run --method mcr,random --task all" if not problems else "")
    return 1 if problems else 0


def _packages() -> list[str]:
    problems = []
    for name in NEEDED:
        try:
            print(f"{name:<30}{version(name)}")
        except PackageNotFoundError:
            problems.append(f"package {name} is not installed; run: pip install -c constraints.txt -e .")
    if not any(_installed(name) for name in ("mmcv", "mmcv-lite")):
        problems.append("neither mmcv nor mmcv-lite is installed, which detection needs; run: pip install mmcv-lite==2.1.0")
    return problems


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _torch() -> list[str]:
    try:
        import torch
    except ImportError as error:
        return [f"torch cannot be imported: {error}"]
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return [
            f"torchvision does not load ({error}); torch and torchvision come from different builds: install both from the "
            "same index, for a CPU build both from PyTorch's CPU index"
        ]
    if not torch.cuda.is_available():
        print(f"{'GPU':<30}none that torch can use (build {torch.version.cuda or 'without CUDA'}); runs go to the CPU")
        return []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        print(f"{f'GPU {index}':<30}{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    return []


def _folders(out: Path) -> list[str]:
    problems = []
    root = os.environ.get("BENCHMARK_DATA", "")
    print(f"{'BENCHMARK_DATA':<30}{root or 'not set: real sets need it or --data-root; the phantom and csv:DIR do not'}")
    if root and not Path(root).is_dir():
        problems.append(f"BENCHMARK_DATA={root} is not a folder; set it to where the sets lie")
    cache = Path(os.environ.get("BENCHMARK_CACHE") or out / "cache")
    print(f"{'cache of decoded pixels':<30}{cache}")
    here = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    print(f"{'free space for results':<30}{shutil.disk_usage(here).free / 2**30:.1f} GiB at {here}")
    if not os.access(here, os.W_OK):
        problems.append(f"{here} cannot be written; choose another folder with --out")
    stray = list(out.rglob(".tmp-*")) if out.is_dir() else []
    for path in stray:
        if path.is_file():
            path.unlink()
    if stray:
        print(f"{'stray temporary files':<30}{len(stray)} removed from {out}")
    return problems
