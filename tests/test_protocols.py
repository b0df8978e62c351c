"""Protocols are literals: named, hashed, run by name, and changed only under a new version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.plan import CATALOGUE, catalogue
from benchmark.types import Protocol
from tasks import TASKS
from tests.conftest import Command

GOLDEN = Path(__file__).with_name("protocol_hashes.json")
EVERY = {protocol.name: protocol for name in TASKS for protocol in catalogue(TASKS.load(name)())}


def test_no_protocol_changes_under_its_version() -> None:
    stored = json.loads(GOLDEN.read_text())
    today = {f"{protocol.name} {protocol.version}": protocol.hash for protocol in EVERY.values()}
    changed = [name for name, found in today.items() if stored.get(name, found) != found]
    assert not changed, f"raise the version of {changed}"
    new = {name: found for name, found in today.items() if name not in stored}
    assert not new, f"add to {GOLDEN.name}: {json.dumps(new)}"


def test_a_name_is_one_protocol_at_every_size() -> None:
    found: dict[str, Protocol] = {}
    for name in TASKS:
        task = TASKS.load(name)()
        for size in CATALOGUE:
            for protocol in task.protocols(size):
                assert found.setdefault(protocol.name, protocol) == protocol
                assert protocol.task == name
                assert protocol.summary
    assert set(found) == set(EVERY)


def test_every_protocol_stands_in_the_overview() -> None:
    text = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text()
    assert [name for name in EVERY if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_protocol_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "protocol", name]) == 0
    assert EVERY[name].hash in capsys.readouterr().out
    assert main(["show", "protocol", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"] == dict(EVERY[name].settings)
    assert shown["version"] == EVERY[name].version


def test_an_unknown_protocol_has_near_names(command: Command) -> None:
    assert command("show", "protocol", "retrieval-uniqe") == 2
    command.refused("unknown protocol 'retrieval-uniqe'", "did you mean retrieval-unique")
    assert command.run("random", "all", "--protocol", "retrieval-uniqe", settings=()) == 2
    command.refused("unknown protocol", "did you mean retrieval-unique")
    assert command.run("random", "detection", "--protocol", "retrieval-unique", settings=()) == 2
    command.refused("unknown protocol of --task detection 'retrieval-unique'")


def test_a_named_protocol_runs_alone(command: Command) -> None:
    assert command.run("random", "all", "--protocol", "retrieval-exact,classification-linear-probe", "--labels", "1") == 0
    found = [result.spec.protocol for result in command.results()]
    assert found == ["classification-linear-probe", "retrieval-exact"]
