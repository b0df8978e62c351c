"""`--set key=value`: typed values, settings for one method, near names for a slip, nothing ignored in silence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from benchmark.errors import UserError
from benchmark.options import override, parse_settings, parse_value, require_used, setting_names
from benchmark.types import Recipe


@dataclass(frozen=True)
class Config:
    stream: Literal["single", "dual"] = "single"
    depth: Literal[2, 4] = 2
    width: int = 64
    ratio: float = 0.75
    pretrained: bool = False
    note: str = ""


def changed(*texts: str, method: str = "mcr") -> tuple[Config, Recipe, frozenset[str]]:
    return override(Config(), Recipe(), parse_settings(texts), method)


def test_settings_are_taken_apart() -> None:
    assert parse_settings(["steps=10", "mcr.stream = dual", " note=a=b.c ", "note=", "a.b.width=1"]) == (
        ("", "steps", "10"), ("mcr", "stream", "dual"), ("", "note", "a=b.c"), ("", "note", ""), ("a.b", "width", "1"),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["steps", "=3", " =3", "", "steps:10"])
def test_a_setting_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not of the form key=value") as caught:
        parse_settings([text])
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("10", int, 10), ("-3", int, -3), ("0.5", float, 0.5), ("1e-3", float, 1e-3), ("2", float, 2.0), ("text", str, "text"),
        ("", str, ""), ("1", str, "1"), ("true", bool, True), ("True", bool, True), ("1", bool, True), ("FALSE", bool, False),
        ("0", bool, False), ("dual", Literal["single", "dual"], "dual"), ("4", Literal[2, 4], 4),
    ],
)  # fmt: skip
def test_a_value_gets_its_type(text: str, kind: Any, expected: Any) -> None:
    found = parse_value(text, kind, "key")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("ten", int, "expected int"), ("1.5", int, "expected int"), ("1e3", int, "expected int"), ("", int, "expected int"),
        ("fast", float, "expected float"), ("yes", bool, "use true or false"), ("2", bool, "use true or false"),
        ("", bool, "use true or false"), ("both", Literal["single", "dual"], "use one of single, dual"),
        ("3", Literal[2, 4], "use one of 2, 4"), ("nan", float, "finite"), ("inf", float, "finite"),
        ("-Infinity", float, "finite"), ("1", int | None, "expected"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(text: str, kind: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_value(text, kind, "key")
    assert str(caught.value).startswith(f"--set key={text}: ")


def test_settings_reach_the_configuration_and_the_recipe() -> None:
    config, recipe, used = changed("width=32", "pretrained=true", "steps=7", "ratio=1", "precision=bf16", "depth=4")
    assert config == Config(width=32, pretrained=True, ratio=1.0, depth=4)
    assert recipe == replace(Recipe(), steps=7, precision="bf16")
    assert used == {"width", "pretrained", "steps", "ratio", "precision", "depth"}


def test_nothing_set_changes_nothing() -> None:
    assert changed() == (Config(), Recipe(), frozenset())


def test_a_setting_with_a_name_is_for_that_method_alone() -> None:
    texts = ("mcr.width=32", "clip.width=16", "ratio=0.5")
    assert changed(*texts)[0] == Config(width=32, ratio=0.5)
    assert changed(*texts, method="clip")[0] == Config(width=16, ratio=0.5)
    assert changed(*texts, method="prior") == (Config(ratio=0.5), Recipe(), frozenset({"ratio"}))


def test_the_last_setting_wins() -> None:
    assert changed("width=1", "mcr.width=2")[0].width == 2
    assert changed("mcr.width=2", "width=1")[0].width == 1


def test_a_slip_in_a_setting_of_a_named_method_gets_near_names() -> None:
    with pytest.raises(UserError, match=r"^unknown setting of mcr 'steam'; did you mean stream"):
        changed("mcr.steam=dual")
    with pytest.raises(UserError, match="did you mean learning_rate"):
        changed("mcr.learningrate=1")
    with pytest.raises(UserError, match=r"^unknown setting of mcr 'qqq'; known: .*stream.*width"):
        changed("mcr.qqq=1")


def test_a_setting_that_only_another_method_knows_is_passed_over() -> None:
    assert changed("prototypes=512", "width=8") == (Config(width=8), Recipe(), frozenset({"width"}))


def test_a_setting_that_no_method_took_is_refused_with_near_names() -> None:
    names = [*setting_names(Config(), Recipe()), *setting_names(Config(), Recipe())]  # two methods
    settings = parse_settings(["width=8", "mcr.stream=dual"])
    require_used(settings, frozenset({"width", "stream"}), names)
    with pytest.raises(UserError, match=r"^unknown setting 'widht'; did you mean width\?$"):
        require_used(parse_settings(["widht=8"]), frozenset({"width"}), names)
    with pytest.raises(UserError, match=r"^unknown setting 'mrc\.stream'; did you mean"):
        require_used(parse_settings(["mrc.stream=dual"]), frozenset(), names)


def test_a_setting_for_a_method_that_does_not_compete_is_refused_though_others_know_the_key() -> None:
    settings = parse_settings(["width=8", "clip.width=16"])
    require_used(settings, frozenset({"width"}), ["width"], ["mcr", "clip"])
    with pytest.raises(UserError, match=r"^--set clip\.width=16: 'clip' is not among the chosen methods mcr$"):
        require_used(settings, frozenset({"width"}), ["width"], ["mcr"])


def test_the_names_of_settings_are_those_of_configuration_and_recipe() -> None:
    names = setting_names(Config(), Recipe())
    assert names[:3] == ("stream", "depth", "width")
    assert {"steps", "batch_size", "precision"} < set(names)
