"""Bad input: one sentence that names the thing and the way out, exit status not 0, no traceback without --debug."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark import __version__
from benchmark.cli import COMMANDS
from tests.conftest import Command

ROOT = Path(__file__).parents[1]


# -------------------------------------------------------------------------------------------- names and values

REQUESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown method": (("--method", "mrc"), ("unknown method 'mrc'", "did you mean mrm or mcr")),
    "one unknown of two methods": (("--method", "mcr,klip"), ("unknown method 'klip'", "did you mean clip or")),
    "a method without any near name": (("--method", "xyzzy"), ("unknown method 'xyzzy'", "known: biomedclip, biovil_t, clip")),
    "no method": (("--method", ","), ("--method names nothing",)),
    "unknown task": (("--task", "retreival"), ("unknown task 'retreival'", "did you mean retrieval?")),
    "unknown dataset": (("--data", "fantom"), ("unknown dataset 'fantom'", "did you mean phantom?")),
    "unknown key of the phantom": (("--data", "phantom:sise=64"), ("unknown key of the phantom 'sise'", "did you mean size")),
    "unknown setting": (("--set", "image_mask_ration=0.5"), ("unknown setting", "did you mean image_mask_ratio")),
    "unknown setting of a method": (("--set", "mcr.straem=dual"), ("unknown setting of mcr 'straem'", "did you mean stream")),
    "setting without a value": (("--set", "stream"), ("--set 'stream'", "key=value")),
    "setting of another type": (("--set", "steps=many"), ("--set steps=many", "expected int")),
    "setting out of its range": (("--set", "image_mask_ratio=1.5"), ("image_mask_ratio=1.5", "must lie in 0.0 to 0.99")),
    "setting not in its list": (("--set", "stream=triple"), ("stream='triple'", "single, dual")),
    "setting not in its literal": (("--set", "precision=fp8"), ("--set precision=fp8", "fp32, bf16, fp16")),
    "settings that contradict": (("--set", "backward=sequential"), ("backward=sequential needs stream=dual",)),
    "setting that is no number": (("--set", "learning_rate=nan"), ("learning_rate=nan", "a finite number")),
    "setting of a mask that is no number": (("--set", "contrast_weight=inf"), ("contrast_weight=inf",)),
    "negative steps": (("--set", "steps=-5"), ("steps=-5 is not 0 or more",)),
    "empty batches": (("--set", "batch_size=0"), ("batch_size=0 is not 1 or more",)),
    "too strong augmentation": (("--set", "augment=3"), ("augment=3.0 is not from 0 to 2",)),
    "labels that are no numbers": (("--labels", "x"), ("--labels 'x'", "expected numbers")),
    "labels of nothing": (("--labels", "0"), ("--labels 0", "above 0 and go up to 1")),
    "labels of more than all": (("--labels", "0.1,2"), ("--labels 0.1,2", "go up to 1")),
    "labels of nan": (("--labels", "nan"), ("--labels nan",)),
    "seed that is no number": (("--seed", "one"), ("--seed 'one'", "expected numbers")),
    "negative seed": (("--seed=-1",), ("--seed '-1'", "from 0 on")),
    "no seed": (("--seed", ","), ("--seed ','", "from 0 on")),
    "negative evaluation seed": (("--eval-seed=-2",), ("--eval-seed '-2'",)),
    "batch of nothing": (("--batch-size", "0"), ("--batch-size must not be below 1",)),
    "negative draws": (("--draws=-1",), ("--draws must not be below 0",)),
    "negative workers": (("--workers=-1",), ("--workers must not be below 0",)),
    "filter without a value": (("--where", "source"), ("--where 'source'", "column=value")),
    "filter that leaves nothing": (("--data", "phantom", "--where", "sex=X"), ("'phantom' has no rows", "--where")),
    "filter on an unknown column": (("--data", "phantom", "--where", "sexx=F"), ("'sexx'", "did you mean sex?")),
    "data root that is not there": (("--data-root", "nowhere/at/all"), ("data root nowhere/at/all", "--data-root")),
    "cuda without one": (("--device", "cuda"), ("--device cuda", "no CUDA device", "--device cpu")),
    "second cuda without one": (("--device", "cuda:1"), ("no CUDA device",)),
    "unknown device": (("--device", "tpu9"), ("'tpu9'", "auto, cpu or cuda")),
    "checkpoint for two methods": (("--method", "mcr,clip", "--checkpoint", "x.pt"), ("--checkpoint belongs to one method",)),
    "checkpoint that is not there": (("--checkpoint", "x.safetensors"), ("x.safetensors is not there", "give a .safetensors")),
}  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS)
def test_a_wrong_request_is_refused_in_one_sentence(case: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cuda" in case:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words, parts = REQUESTS[case]
    usual = {"--method": "mcr", "--task": "retrieval", "--data": "toy", "--out": str(command.out), "--workers": "0"}
    filled = [part for name, value in usual.items() if name not in words for part in (name, value)]
    assert command("run", *filled, *words) == 2
    command.refused(*parts)
    assert not command.out.exists()


def test_choices_are_named_by_the_parser(command: Command) -> None:
    for words in (("run", "--preset", "huge", "--method", "mcr"), ("rum",), ("list", "method"), ("run",)):
        assert command(*words) == 2
        assert "usage:" in command.error
        assert "Traceback" not in command.error


def test_debug_shows_the_traceback_as_well(command: Command) -> None:
    assert command("run", "--method", "mrc", "--debug") == 2
    assert "Traceback" in command.error
    assert command.error.splitlines()[-1].startswith("error: unknown method 'mrc'")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("compare", "mcr", "clip"), "no"),
        (("report",), "has no results"),
        (("list", "datasets", "--show", "fantom"), "did you mean phantom"),
        (("pretrain", "--method", "random", "--data", "toy"), "none of random is trained"),
        (("efficiency", "--method", "mrc"), "did you mean mrm or mcr"),
        (("check-method", "mrc"), "did you mean mrm or mcr"),
        (("check-method", "nowhere.at.all:Thing"), "cannot be imported"),
        (("check-method", "mcr", "--set", "steps=x"), "expected int"),
    ],
)
def test_other_commands_refuse_in_one_sentence_too(words: tuple[str, ...], part: str, command: Command) -> None:
    out = () if words[0] in ("list", "efficiency", "check-method") else ("--out", str(command.out))
    assert command(*words, *out) == 2
    command.refused(part)


# ---------------------------------------------------------------------------------------------- the program itself


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_help_of_every_command_needs_no_torch() -> None:
    code = """
import contextlib, io, json, sys
from benchmark.__main__ import main, parser
found = {}
for name in [None, *json.loads(sys.argv[1])]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            main([name, "--help"] if name else ["--help"])
        except SystemExit as leaving:
            assert leaving.code == 0, name
    found[name or ""] = text.getvalue()
assert not {"torch", "transformers", "timm", "sklearn", "pandas"} & set(sys.modules), sorted(sys.modules)
print(json.dumps(found))
"""
    done = python("-c", code, json.dumps(list(COMMANDS)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\s+\w", found[""], re.MULTILINE), name  # a line about it in the list of commands
        assert "examples:" in found[name]
        assert f"python -m benchmark {name}" in found[name]
    assert "--method" in found["run"]


def test_the_program_ends_as_it_says(tmp_path: Path) -> None:
    done = python("-m", "benchmark", "run", "--method", "mrc", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown method 'mrc'; did you mean mrm or mcr or mgca?\n"
    assert python("-m", "benchmark", "--version").stdout.strip() == __version__


def test_the_data_root_of_the_environment_is_checked_as_well(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_DATA", "/nowhere/at/all")
    assert command.run("random", "retrieval") == 2
    command.refused("/nowhere/at/all", "BENCHMARK_DATA")


def test_an_interrupt_is_no_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tasks.zeroshot.ZeroShot.run", interrupted)
        assert command.run("random", "retrieval,zeroshot") == 130
    assert command.error == "interrupted: finished cells are kept; the same command goes on from here\n"
    assert command.run("random", "retrieval,zeroshot") == 0
    assert "2 were finished before" in command.output


def test_lists_name_everything_that_is_registered(command: Command) -> None:
    expected = {
        "methods": ("mcr", "imagenet"),
        "tasks": ("retrieval", "detection"),
        "datasets": ("phantom", "csv"),
        "protocols": ("retrieval-unique@", "yolov3-frozen-quick@"),
    }
    for what, names in expected.items():
        assert command("list", what) == 0
        assert all(name in command.output for name in names)
