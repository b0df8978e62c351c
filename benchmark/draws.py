"""Bootstrap draws of a result's primary metric, kept in <out>/analysis: ranks and differences need them again. No torch.

`run` draws them when it scores, for the interval, and keeps them; `report` draws those that are not there.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.statistics import INTERVAL, Resampled
from benchmark.store import fingerprint, write
from benchmark.types import Predictions, RunResult, Scalar, plain

VERSION = 3  # raise it whenever the same files give other draws, or another analysis
SEED = 0  # of every bootstrap: results of the same patients are paired, whatever their own seeds are


def interval_notes(draws: int) -> dict[str, Scalar]:
    """The notes of a result that say what its intervals are."""
    return {"draws": draws, "interval": INTERVAL if draws else "none"}


def draws_path(out: Path, spec: Mapping[str, Any], sha256: str, metric: str, draws: int) -> Path:
    """Where the draws of a metric lie.

    Args:
        spec: of the result, as JSON has it. sha256: of its predictions.
    """
    kind = [VERSION, INTERVAL, draws]
    name = fingerprint([sha256, spec["protocol_hash"], spec["task_version"], metric, kind])
    return out / "analysis" / f"{name}.npz"


def rows_mark(predictions: Predictions) -> str:
    """The same for results of the same rows and patients, in any order."""
    order = np.argsort(predictions.uids, kind="stable")
    return fingerprint([predictions.uids[order].tolist(), predictions.patients[order].tolist()])


def read_draws(path: Path) -> tuple[Resampled, str] | None:
    """The draws and the mark of their rows; None where they are not there or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            value, patients = float(stored["value"]), int(stored["patients"])
            return Resampled(value, stored["draws"], stored["left_out"], patients), str(stored["mark"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep_draws(out: Path, result: RunResult, found: Mapping[str, Resampled], predictions: Predictions) -> None:
    """Keeps the draws of the primary metric of a result that was just scored, unless there are none or it is undefined."""
    primary = found.get(result.primary)
    if primary is not None and len(primary.draws) and not np.isnan(primary.value):
        path = draws_path(out, plain(result.spec), result.predictions, result.primary, len(primary.draws))
        write_draws(path, primary, rows_mark(predictions))


def write_draws(path: Path, found: Resampled, mark: str) -> None:
    """Keeps draws, with the mark of their rows. Raises UserError: the folder cannot be written."""
    buffer = io.BytesIO()
    np.savez(buffer, value=found.value, draws=found.draws, left_out=found.left_out, patients=found.patients, mark=mark)
    write(path, buffer.getvalue())
