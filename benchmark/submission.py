"""A result as one file: its JSON with its predictions inside, checked by scoring the predictions again. Imports no torch."""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, NoReturn

import numpy as np

from benchmark.draws import SEED, interval_notes
from benchmark.errors import UserError
from benchmark.scoring import flags_of_scores, score_of, scorer, task_version
from benchmark.statistics import with_intervals
from benchmark.store import Store, predictions_from_bytes, result_from_json
from benchmark.types import Metric, Predictions, RunResult, plain

SCHEMA = 1
KIND = "benchmark submission"
FLAG = "submitted"  # its costs were measured elsewhere and cannot be checked
DRAWS = 1000
RECOMPUTED = ("degenerate", "partial", "trivial", "unchecked")  # flags that are made here, whatever a file says
LARGEST = 4 * 1024**3  # bytes of predictions, unpacked
TOLERANCE = 1e-9  # of a metric, relative above 1: another order of sums


def pack(store: Store, key: str) -> bytes:
    """A finished result with its predictions as one JSON file. Raises UserError."""
    result = store.finished(key)
    if result is None:
        raise UserError(f"{store.root} has no finished result {key!r} with its predictions; `report` shows the keys")
    data = store.predictions_path(key).read_bytes()
    whole = {"kind": KIND, "schema": SCHEMA, "result": plain(result), "predictions": base64.b64encode(data).decode()}
    return (json.dumps(whole, allow_nan=False, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def unpack(text: bytes) -> tuple[Any, bytes]:
    """The result (unchecked) and the bytes of its predictions. Raises UserError in words that follow a file's name."""
    try:
        whole = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError("is not complete JSON without NaN; write it again by `leaderboard pack KEY`") from error
    if not isinstance(whole, dict) or whole.get("kind") != KIND:
        raise UserError("is not a submission; write one by `leaderboard pack KEY`")
    if whole.get("schema") != SCHEMA:
        raise UserError(f"has schema {whole.get('schema')!r}, this version reads schema {SCHEMA}; pack it again")
    try:
        return whole["result"], base64.b64decode(whole["predictions"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError) as error:
        raise UserError("lacks its result or its predictions; pack it again") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def checked(value: Mapping[str, Any], data: bytes) -> RunResult:
    """The result, its metrics made again from its predictions, with the flag "submitted".

    Args:
        value: a result of the schema. data: the .npz.

    Raises:
        UserError: whatever does not match, in words that follow a file's name.
    """
    result = result_from_json(value)
    _text_of(result)
    if result.key != result.spec.key:
        raise UserError(f"has the key {result.key!r}, and its spec has {result.spec.key!r}; the spec was changed")
    if result.status != "ok" or result.role != "method":
        raise UserError(f"is a {result.role} with status {result.status}; only finished results of methods can be added")
    if sha256(data).hexdigest() != result.predictions:
        raise UserError("has other predictions than its result names (sha256); pack it again")
    how = scorer(result.spec.task, result.spec.protocol_hash)
    if how is None:
        raise UserError(
            f"is of {result.spec.protocol}@{result.spec.protocol_hash}, which this version does not have; "
            "add it with the version that made it"
        )
    if how[1].name != result.spec.protocol:
        raise UserError(f"names the protocol {result.spec.protocol!r}, and its hash is that of {how[1].name!r}")
    current = task_version(result.spec.task)
    if current != result.spec.task_version:
        raise UserError(
            f"is of {result.spec.task} in version {result.spec.task_version}, this suite has version {current}; "
            "run the cell again"
        )
    if how[1].primary != result.primary or how[1].higher_is_better != result.higher_is_better:
        raise UserError(f"ranks by {result.primary!r}, and {result.spec.protocol} by {how[1].primary!r}")
    predictions = _predictions(data)
    made, found = _scored(result, predictions, how)
    _compare(result, made, predictions)
    stated = [flag for flag in result.flags if flag not in RECOMPUTED]
    flags = tuple(dict.fromkeys((*stated, *found, FLAG)))
    notes = {**result.notes, **interval_notes(_draws(result))}
    return replace(result, metrics=made, flags=flags, notes=notes)


def _text_of(result: RunResult) -> str:
    """What the store will write. Raises UserError where that is no JSON or no text."""
    try:
        text = json.dumps(plain(result), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError("has a number that is not finite, or text that is none; pack it again") from error
    return text


def _predictions(data: bytes) -> Predictions:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise UserError("has predictions that are no .npz file; pack it again") from error
    if size > LARGEST:
        raise UserError(f"has predictions of {size / 1024**3:.1f} GiB, more than the {LARGEST // 1024**3} GiB that are read")
    return predictions_from_bytes(data)


def _draws(result: RunResult) -> int:
    found = result.notes.get("draws")
    return found if type(found) is int and 0 < found <= 10 * DRAWS else DRAWS


def _scored(result: RunResult, predictions: Predictions, how: Any) -> tuple[dict[str, Metric], tuple[str, ...]]:
    """Metrics and flags."""
    if len(predictions.uids) == 0 or len(np.unique(predictions.uids)) != len(predictions.uids):
        raise UserError("has no prediction, or several of one image; pack it again")
    try:
        score = score_of(predictions, how)
        made = with_intervals(score, predictions.patients, _draws(result), SEED)
        return made, flags_of_scores(result.spec.task, predictions, how[1])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"has predictions that {result.spec.protocol} cannot score; run the cell again") from error


def _compare(result: RunResult, made: Mapping[str, Metric], predictions: Predictions) -> None:
    """Raises UserError for the first metric that its predictions do not give."""
    strange = [name for name in result.metrics if name not in made]
    missing = [name for name in made if name not in result.metrics]
    if strange or missing:
        what = f"the metric {strange[0]!r}, which" if strange else f"no metric {missing[0]!r}, which"
        raise UserError(f"states {what} its predictions {'do not ' if strange else ''}give")
    for name, metric in result.metrics.items():
        value, again = metric.value, made[name].value
        same = value is again or (
            value is not None and again is not None and abs(value - again) <= TOLERANCE * max(1.0, abs(again))
        )
        if not same:
            raise UserError(f"states {name} {value}, and its predictions give {again}")
    if result.n_used != len(predictions.uids) or result.n_expected != result.n_used + len(predictions.skipped):
        raise UserError(
            f"states {result.n_used} rows of {result.n_expected}, and its predictions have {len(predictions.uids)} "
            f"and {len(predictions.skipped)} skipped"
        )


def add(store: Store, result: RunResult, data: bytes) -> bool:
    """Saves a checked result and its predictions; False where it is there already.

    Raises:
        UserError: another result lies under the key.
    """
    there = store.read(result.key)
    if there is not None and there.status == "ok":
        if there.predictions == result.predictions:
            return False
        raise UserError(
            f"has the key {result.key} of a result in {store.root} with other predictions; add it to another folder with --out"
        )
    _text_of(result)  # before anything is written: predictions without a result would stay behind
    store.save_predictions_bytes(result.key, data)
    store.save(result)
    return True
