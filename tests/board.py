"""A folder of results as a dozen methods would leave it: invented methods, invented numbers, the shapes of real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.types import Cost, Metric, RunResult, RunSpec, plain

NAMES = ("Aster", "Birch", "Cedar", "Dahlia", "Elder", "Fern", "Gorse", "Hazel", "Iris", "Juniper", "Larch", "Maple")
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "Fracture",
)
# task, protocol, primary metric, further metrics, label fractions, floor and ceiling of the invented scores
CELLS: tuple[tuple[str, str, str, tuple[str, ...], tuple[float, ...], float, float], ...] = (
    ("retrieval", "retrieval-unique", "recall@10", ("recall@1", "recall@5", "i2t_median_rank", "rsum"), (1.0,), 0.05, 0.62),
    ("zeroshot", "zeroshot-prompt-pairs", "auroc", ("average_precision", "f1"), (1.0,), 0.5, 0.86),
    ("classification", "classification-linear-probe", "auroc", ("average_precision", "f1"), (0.01, 0.1, 1.0), 0.55, 0.92),
    ("segmentation", "unet-frozen", "dice", ("iou",), (0.01, 0.1, 1.0), 0.2, 0.78),
    ("detection", "yolov3-frozen", "ap50", ("froc",), (0.01, 0.1, 1.0), 0.02, 0.44),
)
REFERENCES = (("random ranking", 0.0), ("majority class", 0.0), ("oracle (true findings)", 1.0))
ENVIRONMENT = {"python": "3.11.9", "torch": "2.11.0", "device": "invented GPU 80 GB", "commit": "0" * 40}


def results(methods: int = 12, seeds: int = 3, dataset: str = "phantom") -> Iterator[RunResult]:
    """Every cell of every method and of the references; a few fail, lack a capability or could not be had."""
    for task, protocol, primary, more, fractions, floor, ceiling in CELLS:
        for fraction in fractions:
            shape = (task, protocol, primary, more, fraction, dataset)
            for number, name in enumerate(NAMES[:methods]):
                skill = 1 - number / (methods + 2)
                gain = skill * (0.55 + 0.45 * (1 + np.log10(fraction) / 2))
                for seed in range(seeds):
                    yield _result(name, number, seed, floor + (ceiling - floor) * gain, shape)
            for name, share in REFERENCES:
                yield _reference(name, floor + (ceiling - floor) * share, shape)


def _rng(*words: object) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in "/".join(map(str, words))])


def _spec(name: str, number: int, seed: int, shape: tuple[Any, ...]) -> RunSpec:
    task, protocol, _, _, fraction, dataset = shape
    return RunSpec(
        method=name.lower(), method_version=1, config={"image_encoder": ("resnet50", "vit_b16")[number % 2], "steps": 700},
        weights=f"{number:08d}{seed:08d}", task=task, task_version=1, protocol=protocol,
        protocol_hash=f"{abs(sum(map(ord, protocol))) * 65537 % 16**8:08x}", dataset=dataset, dataset_version="1",
        splits={"train": "a" * 16, "test": "b" * 16}, label_fraction=fraction, seed=seed, eval_seed=0, precision="fp32",
    )  # fmt: skip


def _metrics(rng: np.random.Generator, value: float, shape: tuple[Any, ...]) -> dict[str, Metric]:
    task, _, primary, more, _, _ = shape

    def metric(centre: float, width: float, n: int) -> Metric:
        return Metric(round(centre, 5), round(centre - width, 5), round(centre + width, 5), n)

    found = {primary: metric(value, 0.02 + 0.01 * rng.random(), 430)}
    found |= {name: metric(abs(value - 0.1 * rng.random()), 0.03, 430) for name in more}
    if task in ("zeroshot", "classification"):
        found |= {f"{primary}/{name}": metric(min(0.99, value + 0.08 * rng.normal()), 0.05, 430) for name in FINDINGS}
    if task == "zeroshot":
        found["auroc_prompt_spread"] = Metric(round(0.01 + 0.03 * rng.random(), 5), None, None, 430)
    return found


def _result(name: str, number: int, seed: int, centre: float, shape: tuple[Any, ...]) -> RunResult:
    task, protocol, primary, _, fraction, _ = shape
    spec, rng = _spec(name, number, seed, shape), _rng(name, seed, protocol, fraction)
    common: dict[str, Any] = {
        "key": spec.key, "spec": spec, "title": name, "primary": primary, "environment": ENVIRONMENT, "n_expected": 860,
        "command": f"python -m benchmark run --method {name.lower()} --task {task} --seed 0,1,2 --labels {fraction}",
        "finished": "2026-01-01T10:00:00Z",
    }  # fmt: skip
    if name == "Larch" and task == "detection":
        return RunResult(status="failed", error="RuntimeError: invented failure", cost=Cost(device="cpu"), **common)
    if name == "Maple" and task in ("retrieval", "zeroshot"):
        return RunResult(status="unsupported", error="it has no text tower", cost=Cost(device="cpu"), **common)
    peak = 900.0 + 6200 * (1 - number / 12) ** 1.6 + 500 * (number * 5 % 7) + 30 * seed
    cost = Cost(
        seconds={"features": 4 + number * 1.7 % 9, "fit": 2.0 + 20 * fraction, "predict": 0.4},
        images_per_second=900 - 50.0 * number,
        peak_allocated_mib=peak, peak_reserved_mib=peak * 1.2, peak_device_mib=peak * 1.3, peak_host_mib=2100.0,
        params=24_000_000 + 6_000_000 * number, gmacs=4.1 + number / 3, batch_size=64, device="invented GPU 80 GB",
    )  # fmt: skip
    training = Cost(
        seconds={"pretrain": 1500.0 + 900 * (number * 7 % 12)}, peak_allocated_mib=peak * 4, batch_size=256,
        device="invented GPU 80 GB",
    )  # fmt: skip
    flags = ("phantom", "degenerate") if name == "Maple" else ("phantom",) if spec.dataset == "phantom" else ()
    return RunResult(
        status="ok", metrics=_metrics(rng, centre + 0.012 * rng.normal(), shape), n_used=860 - (number == 5), cost=cost,
        pretraining=training, flags=flags, notes={"train_rows": int(4890 * fraction), "draws": 1000},
        predictions=f"{int(rng.integers(2**60)):064x}", **common,
    )  # fmt: skip


def _reference(name: str, value: float, shape: tuple[Any, ...]) -> RunResult:
    spec = _spec(name, 0, 0, shape)
    metrics = {shape[2]: Metric(value, max(0.0, value - 0.01), min(1.0, value + 0.01), 430)}
    flags = ("phantom",) if spec.dataset == "phantom" else ()
    return RunResult(
        key=spec.key, status="ok", spec=spec, title=name, role="reference", primary=shape[2], metrics=metrics, flags=flags,
        n_expected=860, n_used=860, environment=ENVIRONMENT, finished="2026-01-01T10:00:00Z", predictions="0" * 64,
    )  # fmt: skip


def save(out: Path, made: Iterator[RunResult] | list[RunResult]) -> Path:
    """Writes the results as `run` does."""
    folder = out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for item in made:
        (folder / f"{item.key}.json").write_text(json.dumps(plain(item)))
    return out


def analysis(found: list[RunResult]) -> dict[str, Any]:
    """What the statistics write beside the results: ranks, differences to the best, subgroups, calibration."""
    from leaderboards.rows import group_rows, make_row

    groups = group_rows([make_row(json.loads(json.dumps(plain(item)))) for item in found])
    board: dict[str, Any] = {"schema": 1, "level": 0.95, "draws": 1000, "method": "invented", "groups": []}
    board |= {"subgroups": {}, "calibration": {}, "per_class": {}}
    for group in groups:
        entries = [entry for entry in group.entries if entry.kind == "method"]
        best = entries[0] if entries else None
        told: dict[str, Any] = {row.key: {} for entry in group.entries if entry.kind == "reference" for row in entry.rows}
        for place, entry in enumerate(entries):
            rng = _rng(entry.label, "analysis")
            gap = (entry.value or 0.0) - (best.value or 0.0) if best else 0.0
            difference = {"value": gap, "low": gap - 0.03, "high": gap + 0.03, "n": 430}
            line = {
                "rank": place + 1, "rank_low": max(1, place), "rank_high": min(len(entries), place + 2), "p": 0.04,
                "difference_to_best": None if entry is best else difference, "p_holm": round(min(1.0, 0.5 * rng.random()), 3),
            }  # fmt: skip
            told |= {row.key: line for row in entry.rows}
            if group.first.task == "classification":
                board["subgroups"][entry.first.key] = list(_subgroups(rng, entry.value or 0.0, group.metric))
                board["calibration"][entry.first.key] = _calibration(rng)
        board["groups"].append(
            {"group": json.loads(json.dumps(group.first.group_key)), "metric": group.metric, "entries": told, "pairs": [],
             "higher_is_better": group.higher_is_better, "best": best.first.key if best else None}
        )  # fmt: skip
    return board


def _subgroups(rng: np.random.Generator, value: float, metric: str) -> Iterator[dict[str, Any]]:
    for by, values in (
        ("sex", ("female", "male")),
        ("age", ("< 40", "40 to 64", "65 and more")),
        ("view", ("AP", "PA", "lateral")),
    ):
        for name in values:
            centre = value + 0.03 * rng.normal()
            score = {"value": centre, "low": centre - 0.05, "high": centre + 0.05, "n": 143}
            yield {"by": by, "value": name, "patients": 143, "rows": 280, "metric": metric, "score": score}


def _calibration(rng: np.random.Generator) -> dict[str, Any]:
    edges = np.linspace(0, 1, 11)
    bend = 0.7 + 0.8 * rng.random()
    bins = [
        {"low": low, "high": high, "mean_predicted": (low + high) / 2, "observed": float(((low + high) / 2) ** bend),
         "count": int(4000 * (1.02 - low) ** 3)}
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist())
    ]  # fmt: skip
    return {"ece": {"value": abs(bend - 1) / 8, "low": None, "high": None, "n": 430}, "bins": bins}


def examples(found: list[RunResult], report: str = "Clear lungs, study {}.") -> dict[str, dict[str, Any]]:
    """Key -> the file of retrieval examples, for every result of retrieval on the phantom."""
    image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
    made = {}
    for number, item in enumerate(found):
        if item.role == "method" and item.status == "ok" and item.spec.task == "retrieval" and "phantom" in item.flags:
            above, queries = number % 4, []
            for query in range(6):
                others = [query if place == above else 100 * place + number for place in range(3)]
                found_for = [
                    {"report": report.format(other), "score": 0.9 - place / 8, "right": place == above}
                    for place, other in enumerate(others)
                ]
                own = {"uid": f"phantom-{query:04d}", "report": report.format(query), "rank": 1 + above, "tied": 0}
                queries.append({**own, "image": image, "found": found_for})
            made[item.key] = {"schema": 1, "candidates": 430, "queries": queries}
    return made


def save_examples(out: Path, made: dict[str, dict[str, Any]]) -> None:
    """Writes the files as `run` does."""
    (out / "examples").mkdir(parents=True, exist_ok=True)
    for key, item in made.items():
        (out / "examples" / f"{key}.json").write_text(json.dumps(item))


def curves(found: list[RunResult]) -> dict[str, Any]:
    """The curves.json of invented pretrainings of these results."""
    runs = {}
    for item in found:
        if item.role == "method":
            rng = _rng(item.spec.weights)
            total = [[step, float(2 * np.exp(-step / 200) + 1 + 0.05 * rng.normal())] for step in range(0, 700, 10)]
            run = {"key": item.spec.weights, "title": item.title, "seed": item.spec.seed}
            runs[item.spec.weights] = {**run, "series": {"total": total, "learning_rate": [[0, 0.0], [699, 0.001]]}}
    return {"points": 300, "runs": list(runs.values())}
