"""Results -> rows -> tables and page: what is compared, what is shown, and what hostile names can do (nothing)."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import leaderboards
from benchmark.types import Cost, Metric, RunResult, RunSpec, plain
from leaderboards import csv_table, latex, markdown, schema
from leaderboards.rows import Row, first_line
from leaderboards.text import count, duration, gib, number, rate

SCHEMA = json.loads((Path(leaderboards.__file__).parent / "result.schema.json").read_text())
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0"}
TRACEBACK = 'Traceback (most recent call last):\n  File "run.py", line 3, in f\n    g()\nRuntimeError: shapes 4x128 and 64x3\n'
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b *c* _d_ `e` [f](javascript:g) ~h~ # <i>",
    r"\input{/etc/passwd} & % $ # _ { } ~ ^ \\",
    "../../etc/passwd",
    "=HYPERLINK(A1)",
    "@SUM(1)",
    "-2+3",
    "\t=1+1",
    '" onmouseover="x',
    "line\nbreak\x1b[31mred\u202egnol \ud800",
)


def spec(**changes: Any) -> RunSpec:
    base = RunSpec(
        method="mcr",
        method_version=1,
        config={"stream": "single"},
        weights="0123456789abcdef",
        task="retrieval",
        task_version=1,
        protocol="pair",
        protocol_hash="ab12cd34",
        dataset="phantom",
        dataset_version="1",
        splits={"test": "t" * 8},
        label_fraction=1.0,
        seed=0,
        eval_seed=0,
        precision="fp32",
    )
    return replace(base, **changes)


def result(value: float | None = 0.5, *, title: str = "MCR", changes: dict[str, Any] | None = None, **others: Any) -> RunResult:
    run = spec(**(changes or {}))
    base = RunResult(
        key=run.key,
        status="ok",
        spec=run,
        title=title,
        primary="R@10",
        metrics={"R@10": Metric(value, 0.4, 0.625, 120), "median rank": Metric(12.5, None, None, 120)},
        n_expected=120,
        n_used=120,
        cost=Cost(
            seconds={"predict": 2.0, "fit": 1.5}, images_per_second=81.25, peak_host_mib=900.0, params=2_400_000, device="cpu"
        ),
        environment=ENVIRONMENT,
        flags=("phantom",),
        predictions="f" * 64,
        command="python -m benchmark run --method mcr --task retrieval",
        finished="2026-01-01T10:00:00Z",
    )
    return replace(base, **others)


def bare(status: str, error: str, **changes: Any) -> RunResult:
    cut: dict[str, Any] = {"metrics": {}, "n_used": 0, "cost": Cost(device="cpu"), "predictions": ""}
    return result(status=status, error=error, title=changes.pop("title", "Other"), changes=changes, **cut)


def save(out: Path, *results: RunResult) -> Path:
    folder = out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for item in results:
        (folder / f"{item.key}.json").write_text(json.dumps(plain(item)))
    return out


def rows_of(*results: RunResult) -> list[leaderboards.Row]:
    return [leaderboards.make_row(json.loads(json.dumps(plain(item)))) for item in results]


def terminal_table(rows: Sequence[Row]) -> str:
    """The table of the groups of these rows."""
    return leaderboards.terminal_groups(leaderboards.group_rows(rows))


def groups_of(*results: RunResult) -> tuple[leaderboards.Group, ...]:
    return leaderboards.group_rows(rows_of(*results))


def board(out: Path) -> dict[str, str]:
    return {name: path.read_text() for name, path in leaderboards.write_board(out).items()}


SAMPLES = (
    result(),
    result(None),
    result(role="reference", title="Random ranking", changes={"method": "random-ranking", "weights": "none"}, cost=Cost()),
    result(
        pretraining=Cost(seconds={"pretrain": 100.0}, peak_allocated_mib=2048.0, batch_size=64),
        notes={"truncated": 3, "c": None},
    ),
    result(skipped=(("uid-1", "truncated image"),), n_used=119),
    bare("failed", TRACEBACK),
    bare("unsupported", "no text tower"),
    bare("unavailable", "no weights; pass --checkpoint"),
)


# ------------------------------------------------------------------------------------------------ schema


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda item: f"{item.status}-{item.role}")
def test_results_follow_the_published_schema_and_the_check_at_run_time(sample: RunResult) -> None:
    value = json.loads(json.dumps(plain(sample), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(value)
    assert schema.fault(value) is None


def test_both_schemas_name_every_field_of_the_types() -> None:
    definitions = SCHEMA["$defs"]
    pairs = (
        (RunResult, SCHEMA, schema.RESULT),
        (RunSpec, definitions["spec"], schema.SPEC),
        (Cost, definitions["cost"], schema.COST),
        (Metric, definitions["metric"], schema.METRIC),
    )
    for kind, published, checked in pairs:
        names = {item.name for item in fields(kind)}
        assert names == set(published["properties"]) == set(published["required"]) == set(checked)
        assert published["additionalProperties"] is False
    assert tuple(SCHEMA["properties"]["status"]["enum"]) == schema.STATUSES


BROKEN: tuple[tuple[str, Any], ...] = (
    ("schema", 2),
    ("status", "great"),
    ("role", "winner"),
    ("key", None),
    ("n_used", "120"),
    ("higher_is_better", 1),
    ("flags", [1]),
    ("skipped", [["uid"]]),
    ("metrics", {}),
    ("metrics", {"R@10": 0.5}),
    ("metrics", {"R@10": {"value": 0.5}}),
    ("metrics", {"R@10": {"value": "0.5", "low": None, "high": None, "n": 1}}),
    ("metrics", {"R@10": {"value": 0.5, "low": 0.4, "high": None, "n": 1}}),
    ("cost", {"seconds": {}}),
    ("spec", {"method": "mcr"}),
    ("more", 1),
)


@pytest.mark.parametrize(("name", "item"), BROKEN)
def test_a_broken_result_is_refused_by_both_checks_in_one_sentence(name: str, item: Any) -> None:
    value = {**plain(result()), name: item}
    reason = schema.fault(value)
    assert reason
    assert "\n" not in reason
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(value)


@pytest.mark.parametrize("name", [item.name for item in fields(RunResult)])
def test_a_missing_field_is_named(name: str) -> None:
    value = plain(result())
    del value[name]
    assert name in (schema.fault(value) or "")


def test_an_older_or_newer_schema_is_named() -> None:
    assert "schema 7" in (schema.fault({"schema": 7, "anything": None}) or "")
    assert "not a JSON object" in (schema.fault([1]) or "")


def test_unreadable_files_are_reported_and_the_others_appear(tmp_path: Path) -> None:
    save(tmp_path, result())
    folder = tmp_path / "results"
    whole = json.dumps(plain(result()))
    (folder / "half.json").write_text(whole[: len(whole) // 2])
    (folder / "empty.json").write_text("")
    (folder / "nan.json").write_text(whole.replace("0.5", "NaN"))
    (folder / "huge.json").write_text(whole.replace("0.5", "1e999"))
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    (folder / "zz-copy.json").write_text(whole)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "newer.json").write_text(json.dumps({"schema": 2}))
    (folder / "folder.json").mkdir()
    (folder / ".tmp-x.json").write_text("{")
    (folder / "x.json.tmp-1").write_text("{")
    found, refused = leaderboards.load(folder)
    assert [item["title"] for item in found] == ["MCR"]
    names = {Path(path).name for path, _ in refused}
    assert names == {f"{name}.json" for name in ("half", "empty", "nan", "huge", "bytes", "zz-copy", "deep", "newer", "folder")}
    text = board(tmp_path)
    assert "| MCR | 0.500 |" in text["md"]
    assert "half.json is not complete JSON, perhaps half-written" in text["md"]
    assert "half.json" in text["html"]
    assert len(json.loads(text["json"])["left_out"]) == 9
    assert str(tmp_path) not in "".join(text.values())


# ------------------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize(
    "change",
    [
        {"protocol_hash": "ffffffff"},
        {"protocol": "other"},
        {"dataset": "cxr"},
        {"dataset_version": "2"},
        {"task": "zeroshot"},
        {"task_version": 2},
        {"label_fraction": 0.1},
        {"splits": {"test": "other"}},
    ],
    ids=lambda item: next(iter(item)),
)
def test_rows_that_differ_in_what_makes_a_score_never_share_a_group(change: dict[str, Any]) -> None:
    assert len(groups_of(result(), result(changes={"method": "clip"}))) == 1
    assert len(groups_of(result(), result(changes={"method": "clip", **change}))) == 2


def test_methods_are_sorted_by_value_and_references_and_missing_rows_stand_apart() -> None:
    def shown(higher: bool) -> list[str]:
        results = [
            result(0.3, title="low", changes={"method": "a"}, higher_is_better=higher),
            result(0.9, title="oracle", role="reference", changes={"method": "b"}, higher_is_better=higher),
            result(0.6, title="high", changes={"method": "c"}, higher_is_better=higher),
            result(None, title="undefined", changes={"method": "d"}, higher_is_better=higher),
            replace(bare("failed", TRACEBACK, method="e", title="broken"), higher_is_better=higher),
        ]
        return [entry.label for entry in groups_of(*results)[0].entries]

    assert shown(True) == ["high", "low", "oracle", "undefined", "broken"]
    assert shown(False) == ["low", "high", "oracle", "undefined", "broken"]


def test_seeds_of_one_method_become_one_line_with_mean_and_spread() -> None:
    seeds = [result(value, changes={"seed": seed, "weights": f"{seed}" * 16}) for seed, value in enumerate((0.4, 0.5, 0.9))]
    (group,) = groups_of(*seeds)
    (entry,) = group.entries
    assert entry.value == pytest.approx(0.6)
    assert entry.spread == pytest.approx(0.26457513)  # sqrt((0.04 + 0.01 + 0.09) / 2)
    assert entry.interval is None
    text = markdown.markdown((group,), ())
    assert "| MCR | 0.600 | — | ±0.265 (3) |" in text
    assert "the interval of each seed stands in leaderboard.json" in text


def test_a_failed_seed_stands_beside_the_mean_of_the_others() -> None:
    failed = bare("failed", TRACEBACK, title="MCR", seed=2)
    (group,) = groups_of(result(0.4), result(0.6, changes={"seed": 1, "weights": "1" * 16}), failed)
    assert [(entry.label, len(entry.rows)) for entry in group.entries] == [("MCR (seed=0,1)", 2), ("MCR (seed=2)", 1)]


def test_seeds_that_lack_a_score_for_one_reason_are_one_line() -> None:
    seeds = [bare("unavailable", "no weights", seed=seed) for seed in range(3)]
    (group,) = groups_of(*seeds, bare("unavailable", "another reason", seed=3))
    lines = sorted((len(entry.rows), entry.first.reason) for entry in group.entries)
    assert lines == [(1, "another reason"), (3, "no weights")]


def test_another_recipe_under_the_same_seed_is_not_averaged() -> None:
    (group,) = groups_of(result(0.4), result(0.6, changes={"weights": "e" * 16}))
    assert [entry.value for entry in group.entries] == [0.6, 0.4]
    assert len({entry.label for entry in group.entries}) == 2


def test_two_configurations_of_one_title_are_told_apart() -> None:
    (group,) = groups_of(result(0.4), result(0.6, changes={"config": {"stream": "dual"}}))
    assert [entry.label for entry in group.entries] == ["MCR (stream=dual)", "MCR (stream=single)"]


# ------------------------------------------------------------------------------------------------ cells


def test_numbers_read_well_and_unknown_is_a_dash() -> None:
    assert [number(item) for item in (None, 0.0, 0.12345, -0.5, 12.345, 1234.5)] == [
        "—",
        "0.000",
        "0.123",
        "-0.500",
        "12.3",
        "1234",
    ]
    assert [duration(item) for item in (None, 0.0, 59.96, 240.0, 7200.0)] == ["—", "0.0 s", "60.0 s", "4.0 min", "2.0 h"]
    assert [gib(item) for item in (None, 512.0)] == ["—", "0.50"]
    assert [count(item) for item in (None, 12, 2_400_000, 3e9)] == ["—", "12", "2.4 M", "3.0 G"]
    assert [rate(value) for value in (None, 0.1234, 99.96, 999.4, 999.96, 1234.5)] == [
        "—",
        "0.123",
        "100",
        "999",
        "1000",
        "1234",
    ]


def test_the_line_of_an_error_that_says_what_happened() -> None:
    assert first_line(TRACEBACK) == "RuntimeError: shapes 4x128 and 64x3"
    assert first_line(TRACEBACK + "second line of the message\n") == "RuntimeError: shapes 4x128 and 64x3"
    assert first_line("no weights; pass --checkpoint\nmore") == "no weights; pass --checkpoint"
    assert first_line(None) == first_line(" \n") == "no reason recorded"


def test_gpu_figures_are_a_dash_on_a_cpu_and_never_zero() -> None:
    (row,) = rows_of(result())
    (entry,) = groups_of(result())[0].entries
    cells = dict(zip(leaderboards.text.COLUMNS, leaderboards.text.cells(entry)[2:]))
    assert (cells["GPU GiB"], cells["Host MiB"], cells["GMACs"], cells["Pretraining"]) == ("—", "900", "—", "—")
    (line,) = csv.DictReader(io.StringIO(csv_table.csv_table([row])))
    assert (line["peak_allocated_mib"], line["peak_host_mib"], line["gmacs"]) == ("", "900.0", "")
    assert "0.88 host" in terminal_table([row])


def test_gpu_figures_name_all_three_peaks() -> None:
    cost = Cost(
        seconds={"fit": 1.0}, peak_allocated_mib=1024.0, peak_reserved_mib=1536.0, peak_device_mib=2048.0, device="H200"
    )
    (group,) = groups_of(result(cost=cost, pretraining=replace(cost, seconds={"pretrain": 600.0})))
    assert "| 1.00 / 1.50 / 2.00 |" in markdown.markdown((group,), ())
    assert "10.0 min (1.00 GiB)" in markdown.markdown((group,), ())


@pytest.mark.parametrize(
    ("status", "error"), [("failed", TRACEBACK), ("unsupported", "no text"), ("unavailable", "no weights")]
)
def test_a_row_without_a_score_is_shown_with_its_reason_and_never_zero(tmp_path: Path, status: str, error: str) -> None:
    text = board(save(tmp_path, bare(status, error)))
    reason = first_line(error)
    for name in ("md", "csv", "tex", "json", "html"):
        assert status in text[name], name
        assert reason in text[name], name
    assert f"| Other | {status} | — |" in text["md"]
    (line,) = csv.DictReader(io.StringIO(text["csv"]))
    assert (line["value"], line["low"], line["seconds"]) == ("", "", "")
    terminal = terminal_table(rows_of(bare(status, error)))
    assert f"{status}: Other (retrieval): {reason}" in terminal
    assert "0.000" not in terminal


def test_fewer_rows_than_expected_are_flagged() -> None:
    (group,) = groups_of(result(n_used=119))
    assert "| 119 of 120 |" in markdown.markdown((group,), ())
    assert group.entries[0].flags == ("partial",)


def test_phantom_groups_carry_a_banner_in_every_format(tmp_path: Path) -> None:
    banner = "PHANTOM: synthetic data, never comparable with published numbers"
    real = result(changes={"dataset": "cxr"}, flags=())
    text = board(save(tmp_path, result(), real))
    assert text["md"].count(banner) == 1
    assert text["tex"].count(banner) == 1
    assert banner in text["html"]
    assert [group["banners"] for group in json.loads(text["json"])["groups"]] == [[], [banner]]
    assert banner in terminal_table(rows_of(result()))
    assert banner not in terminal_table(rows_of(real))


# ------------------------------------------------------------------------------------------------ golden


def test_markdown_golden() -> None:
    reference = result(0.25, title="Random ranking", role="reference", changes={"method": "r", "weights": "none"}, cost=Cost())
    text = markdown.markdown(groups_of(result(), reference), ())
    head = "Method | R@10 ↑ | 95 % interval | Seeds | Rows | GPU GiB | Host MiB | Time | Images/s | Parameters | GMACs"
    expected = f"""# Leaderboard

## Retrieval

### phantom 1, pair@ab12cd34, 100 % of the labels

> **PHANTOM: synthetic data, never comparable with published numbers**

| {head} | Pretraining | Flags |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
| MCR | 0.500 | [0.400, 0.625] | 1 | 120 | — | 900 | 3.5 s | 81.2 | 2.4 M | — | — |  |
| *Random ranking* | 0.250 | [0.400, 0.625] | 1 | 120 | — | — | — | — | — | — | — |  |
"""
    assert text.startswith(expected.replace("[0.400, 0.625]", r"\[0.400, 0.625\]"))


def test_latex_golden() -> None:
    reference = result(0.25, title="All_positive", role="reference", changes={"method": "r", "weights": "none"}, cost=Cost())
    text = latex.latex(groups_of(result(), reference), ())
    expected = r"""\begin{tabular}{lrrrrrrr}
\toprule
Method & R@10 $\uparrow$ & 95 \% interval & Seeds & GPU GiB & Time & Images/s & Parameters \\
\midrule
MCR & 0.500 & [0.400, 0.625] & 1 & \textemdash{} & 3.5 s & 81.2 & 2.4 M \\
\midrule
\emph{All\_positive} & 0.250 & [0.400, 0.625] & 1 & \textemdash{} & \textemdash{} & \textemdash{} & \textemdash{} \\
\bottomrule
\end{tabular}}
\end{table}"""
    assert expected in text


def test_csv_golden() -> None:
    (line,) = csv.DictReader(io.StringIO(csv_table.csv_table(rows_of(result()))))
    shown = (
        "task",
        "dataset",
        "protocol_hash",
        "label_fraction",
        "title",
        "value",
        "low",
        "high",
        "seconds",
        "seconds:fit",
        "metric:median rank",
    )
    assert [line[name] for name in shown] == [
        "retrieval",
        "phantom",
        "ab12cd34",
        "1.0",
        "MCR",
        "0.5",
        "0.4",
        "0.625",
        "3.5",
        "1.5",
        "12.5",
    ]


def test_json_board_keeps_every_result(tmp_path: Path) -> None:
    value = json.loads(board(save(tmp_path, result(), bare("failed", TRACEBACK, method="x")))["json"])
    assert (value["schema"], value["generated_from"]) == (1, 2)
    (group,) = value["groups"]
    assert (group["protocol_hash"], group["metric"], group["higher_is_better"]) == ("ab12cd34", "R@10", True)
    first, second = group["rows"]
    assert (first["value"], first["low"], first["metrics"]["median rank"]["value"], first["seconds"]) == (0.5, 0.4, 12.5, 3.5)
    assert (second["value"], second["status"], second["reason"]) == (None, "failed", "RuntimeError: shapes 4x128 and 64x3")
    assert first["cost"]["peak_allocated_mib"] is None
    assert [entry["keys"] for entry in group["entries"]] == [[first["key"]], [second["key"]]]


def test_terminal_table_fits_and_groups() -> None:
    title = "MCR (our reading of the abstract)"
    linear = {"task": "classification", "protocol": "linear-probe-frozen", "label_fraction": 0.01}
    text = terminal_table(
        rows_of(
            result(title=title),
            result(title=title, changes=linear, primary="auroc_macro", metrics={"auroc_macro": Metric(0.7, 0.6, 0.8, 9)}),
        )
    )
    assert max(map(len, text.splitlines())) <= 156
    assert re.search(
        r"pair@ab12cd34 +MCR \(our reading of the abstract\) +R@10 ↑ +0\.500 \[0\.400, 0\.625\] +0\.88 host +\S.* +3\.5 s",
        text,
    )
    assert ", 1 % of the labels" in text


# ------------------------------------------------------------------------------------------------ hostile names


def hostile(name: str) -> RunResult:
    """Every text of a result is the given name."""
    key = name.replace("\ud800", "")  # a lone half of a pair cannot be hashed, so no spec has one
    odd = {"method": key, "dataset": key, "dataset_version": key, "protocol": key, "config": {key: key}}
    texts: dict[str, Any] = {"flags": (name, "phantom"), "command": name, "notes": {name: name}, "environment": {name: name}}
    metrics = {name: Metric(0.5, 0.4, 0.6, 3), "R@10": Metric(0.5, 0.4, 0.6, 3)}
    return result(
        title=name, changes=odd, metrics=metrics, primary="R@10", cost=Cost(seconds={name: 1.0}, device=name), **texts
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_keeps_the_shape_of_the_tables(tmp_path: Path, name: str) -> None:
    text = board(save(tmp_path, hostile(name), replace(bare("failed", name, method="x"), title=name)))
    tables = [part.splitlines() for part in text["md"].split("\n\n") if part.startswith("|")]
    assert all(len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1 for table in tables)
    assert not re.search(r"<\w", text["md"])
    assert {len(line) for line in csv.reader(io.StringIO(text["csv"]))} == {len(next(csv.reader(io.StringIO(text["csv"]))))}
    for line in csv.reader(io.StringIO(text["csv"])):
        assert not any(item.startswith(("=", "+", "@", "\t")) or re.match(r"-(?!\d+(\.\d+)?$)", item) for item in line)
    body = "\n".join(line for line in text["tex"].splitlines() if not line.startswith("%"))
    assert r"\input" not in body
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    terminal = terminal_table(rows_of(hostile(name)))
    assert "\x1b" not in terminal
    assert "\u202e" not in terminal
    assert json.loads(text["json"])["groups"][0]["rows"][0]["title"] == name


def test_formulas_are_quoted_and_numbers_are_not() -> None:
    assert [csv_table.safe(item) for item in ("=1", "+1", "-1", "@x", "\t=1", " =1", -1.5, None, "a=b")] == [
        *("'=1", "'+1", "'-1", "'@x", "' =1", "' =1", -1.5, "", "a=b"),
    ]


def test_escapes_of_each_format() -> None:
    assert markdown.escape("a|b*c_d`e<f>&\\") == r"a\|b\*c\_d\`e&lt;f&gt;&amp;" + "\\\\"
    assert latex.escape("&%$#_{}~^\\") == r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert latex.escape("--out ---") == "-{}-out -{}-{}-"


# ------------------------------------------------------------------------------------------------ page and board


def test_no_results_give_a_friendly_sentence_in_every_format(tmp_path: Path) -> None:
    text = board(tmp_path)
    for name in ("md", "tex", "html"):
        assert "No results yet: run" in text[name], name
    assert json.loads(text["json"])["groups"] == []
    assert len(text["csv"].splitlines()) == 1
    assert terminal_table([]).startswith("No results yet")


def test_the_board_is_written_again_to_the_same_bytes_and_leaves_no_temporary(tmp_path: Path) -> None:
    save(tmp_path, *SAMPLES)
    first = board(tmp_path)
    assert board(tmp_path) == first
    assert {path.name for path in tmp_path.iterdir()} == {"results", *(f"leaderboard.{name}" for name in first)}


def test_no_torch_is_imported(tmp_path: Path) -> None:
    save(tmp_path, *SAMPLES)
    code = (
        "import sys, leaderboards, pathlib\n"
        "leaderboards.write_board(pathlib.Path(sys.argv[1]))\n"
        "leaderboards.terminal_groups([])\n"
        "heavy = {'torch', 'transformers', 'jsonschema', 'pandas', 'sklearn', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(leaderboards.__file__).parent.parent, timeout=60
    )


@pytest.mark.slow
def test_ten_thousand_results_in_three_seconds(tmp_path: Path) -> None:
    results = [result(0.5, changes={"method": f"m{number % 500}", "seed": number // 500}) for number in range(10_000)]
    save(tmp_path, *results)
    start = time.process_time()  # other work on the machine does not count
    found, refused = leaderboards.load(tmp_path / "results")
    groups = leaderboards.group_rows(map(leaderboards.make_row, found))
    markdown.markdown(groups, refused)
    csv_table.csv_table([row for group in groups for row in group.rows])
    leaderboards.render.json_board(groups, refused)
    assert len(found) == 10_000
    assert time.process_time() - start < 3.0
