"""The curves of a folder as one SVG: a panel each for the loss, the rate, throughput and memory, a line a pretraining."""

from __future__ import annotations

import io
import json
from pathlib import Path

from benchmark.store import write
from leaderboards.text import clean

_PANELS = {"total": "total loss", "learning_rate": "learning rate", "seconds": "seconds a step", "memory_mib": "memory, MiB"}
_LINES = 20  # of a panel that can still be told apart


def write_curves_figure(out: Path, kind: str = "svg") -> Path | None:
    """Writes <out>/curves.svg from curves.json: the newest 20 pretrainings; None where there is nothing to draw.

    Raises:
        UserError: the folder cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = out / "curves.json"
    runs = json.loads(path.read_text())["runs"][-_LINES:] if path.is_file() else []
    panels = [name for name in _PANELS if any(run["series"].get(name) for run in runs)]
    if not panels:
        return None
    canvas = Figure(figsize=(4.5 * len(panels), 4.5), layout="constrained")
    for axes, name in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels):
        for run in runs:
            points = run["series"].get(name, [])
            axes.plot([step for step, _ in points], [value for _, value in points], label=_label(run), linewidth=1)
        axes.set(xlabel="step", ylabel=_PANELS[name])
        axes.grid(alpha=0.3)
    handles, labels = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "curves"}):
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {})
    target = out / f"curves.{kind}"
    write(target, buffer.getvalue())
    return target


def _label(run: dict[str, object]) -> str:
    seed = "" if run["seed"] is None else f", seed {run['seed']}"
    return clean(f"{run['title'] or run['key']}{seed}").replace("$", r"\$")
