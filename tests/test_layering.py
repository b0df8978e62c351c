"""Rules of the source that no single test of behavior would notice: who imports whom, what is never called, how long it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "methods", "tasks", "leaderboards")

MAX_LINES = 300
MAX_TEST_LINES = 400
MAX_FUNCTION = 40
LONGER_FILES = {  # why it may be longer, and how long
    "benchmark/types.py": 540,  # the contracts of everybody, on one page
    "tests/test_leaderboards.py": 620,
}
LONGER_FUNCTIONS = {"benchmark/efficiency/step.py:measure": 46, "tasks/heads/fit.py:fit": 45}


@dataclass(frozen=True)
class Import:
    module: str  # absolute, for `from a import b` as "a.b"
    line: int
    inside: bool  # a function, so that it happens when called


@dataclass(frozen=True)
class Module:
    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @cached_property
    def functions(self) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
        return tuple(node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        inside = {node for function in self.functions for node in ast.walk(function)}
        return tuple(
            Import(name, node.lineno, node in inside)
            for node in self.nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in self._imported(node)
        )

    def _imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        package = self.path.relative_to(ROOT).parts[: -node.level] if node.level else ()
        stem = ".".join([*package, *([node.module] if node.module else [])])
        yield from (f"{stem}.{alias.name}" for alias in node.names)

    def where(self, line: int) -> str:
        return f"{self.name}:{line}"


def modules(*folders: str) -> tuple[Module, ...]:
    found = [Module(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) >= 3 * len(folders)  # the rules look at something
    return tuple(found)


@pytest.fixture(scope="module")
def sources() -> tuple[Module, ...]:
    return modules(*PACKAGES)


def of(sources: tuple[Module, ...], package: str) -> Iterator[Module]:
    yield from (module for module in sources if module.name.startswith(f"{package}/"))


def package_of(module: str) -> str:
    return module.split(".")[0]


# ---------------------------------------------------------------------------------------- who imports whom


def test_the_core_imports_no_method_task_or_board(sources: tuple[Module, ...]) -> None:
    found = [
        module.where(item.line)
        for module in of(sources, "benchmark")
        for item in module.imports
        if package_of(item.module) in PACKAGES[1:]
        if not (module.name.startswith("benchmark/cli/") and item.inside)
    ]
    assert found == []


def test_the_core_names_methods_and_tasks_as_strings_in_one_place_only(sources: tuple[Module, ...]) -> None:
    found = {
        module.name
        for module in of(sources, "benchmark")
        for node in module.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
        if any(isinstance(word, ast.Constant) and str(word.value).split(".")[0] in PACKAGES[1:] for word in node.args)
    }
    assert found <= {"benchmark/scoring.py"}


def test_methods_and_tasks_import_the_core_and_never_each_other(sources: tuple[Module, ...]) -> None:
    allowed = {"methods": {"methods", "benchmark"}, "tasks": {"tasks", "benchmark"}}
    found = [
        module.where(item.line)
        for package, known in allowed.items()
        for module in of(sources, package)
        for item in module.imports
        if package_of(item.module) in PACKAGES and package_of(item.module) not in known
    ]
    assert found == []


def test_nothing_but_the_command_line_is_imported_from_the_command_line(sources: tuple[Module, ...]) -> None:
    found = [
        module.where(item.line)
        for module in sources
        for item in module.imports
        if item.module.startswith(("benchmark.cli", "benchmark.__main__"))
        if not module.name.startswith(("benchmark/cli/", "benchmark/__main__"))
    ]
    assert found == []


def test_boards_read_results_and_know_nothing_else_of_the_core(sources: tuple[Module, ...]) -> None:
    allowed = ("benchmark.types", "benchmark.store", "benchmark.errors")
    found = [
        f"{module.where(item.line)} {item.module}"
        for module in of(sources, "leaderboards")
        for item in module.imports
        if package_of(item.module) in (*PACKAGES[:3], "torch", "torchvision", "timm", "transformers")
        if not any(item.module == name or item.module.startswith(f"{name}.") for name in allowed)
    ]
    assert found == []


@pytest.mark.parametrize(
    "statement",
    [
        "import leaderboards, benchmark.store, benchmark.types, benchmark.analysis, benchmark.comparison, tasks.scoring",
        "from benchmark.__main__ import parser; parser()",
    ],
)
def test_boards_numbers_and_the_help_text_need_no_torch(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


# ------------------------------------------------------------------------------------------- what is never done


def test_nothing_evaluates_text_or_runs_a_shell(sources: tuple[Module, ...]) -> None:
    calls = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput")
    found = [
        module.where(node.lineno)
        for module in sources
        for node in module.nodes
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) in calls or any(word.arg == "shell" for word in node.keywords)
    ]
    assert found == []


def test_only_one_module_reads_checkpoints_and_none_unpickles(sources: tuple[Module, ...]) -> None:
    unsafe = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml")
    imports = {module.name for module in sources for item in module.imports if package_of(item.module) in unsafe}
    assert imports <= {"benchmark/weights.py"}  # for the name of an error
    loads = [
        (module, node)
        for module in sources
        for node in module.nodes
        if isinstance(node, ast.Call)
        if ast.unparse(node.func).split(".")[-1] in ("load", "loads", "hub")
        and ast.unparse(node.func).split(".")[0] in ("torch", "pickle")
    ]
    assert {module.name for module, _ in loads} == {"benchmark/weights.py"}
    for module, node in loads:
        assert isinstance(node, ast.Call)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("weights_only") == "True", module.where(node.lineno)
    pickled = [
        module.where(node.value.lineno)
        for module in sources
        for node in module.nodes
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert pickled == []


def test_only_the_runner_catches_everything(sources: tuple[Module, ...]) -> None:
    found = [
        module.where(node.lineno)
        for module in sources
        for node in module.nodes
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or {"Exception", "BaseException"} & {name.split(".")[-1] for name in _caught(node.type)}
        if module.name != "benchmark/runner.py"
    ]
    assert found == []


def _caught(kind: ast.expr) -> list[str]:
    return [ast.unparse(item) for item in kind.elts] if isinstance(kind, ast.Tuple) else [ast.unparse(kind)]


def test_only_one_module_seeds_the_global_generators(sources: tuple[Module, ...]) -> None:
    own = ("default_rng", "Generator", "SeedSequence", "get_state", "PCG64", "Philox")
    found = set()
    for module in sources:
        for node in module.nodes:
            if not isinstance(node, ast.Attribute):
                continue
            name = ast.unparse(node)
            seeds = name in ("torch.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.seed")
            draws = name.startswith(("np.random.", "numpy.random.")) and name.split(".")[2].split("(")[0] not in own
            draws |= (
                name.startswith("random.") and name != "random.Random" and any(i.module == "random" for i in module.imports)
            )
            if (seeds or draws) and module.name != "benchmark/repro.py":
                found.add(f"{module.where(node.lineno)} {name}")
    assert found == set()


def test_nobody_switches_off_a_guard(sources: tuple[Module, ...]) -> None:
    words = ("LOAD_TRUNCATED_IMAGES", "MAX_IMAGE_PIXELS", "trust_remote_code", "_create_unverified_context")
    targets = []
    for module in sources:
        for node in module.nodes:
            if isinstance(node, ast.Assign):
                targets += [(module, node.lineno, ast.unparse(target)) for target in node.targets]
            elif isinstance(node, ast.keyword) and node.arg:
                targets.append((module, node.value.lineno, node.arg))
    found = [f"{module.where(line)} {name}" for module, line, name in targets if name.split(".")[-1] in words]
    assert found == []


def test_nothing_is_left_to_be_done(sources: tuple[Module, ...]) -> None:
    marks = [mark.swapcase() for mark in ("todo", "fixme")]
    found = [
        module.where(number)
        for module in (*sources, *modules("tests"))
        for number, line in enumerate(module.text.splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert found == []


# ------------------------------------------------------------------------------------------------ how long it is


def test_files_fit_on_a_few_screens(sources: tuple[Module, ...]) -> None:
    lengths = {module.name: module.text.count("\n") for module in (*sources, *modules("tests"))}
    limits = {name: MAX_TEST_LINES if name.startswith("tests/") else MAX_LINES for name in lengths} | LONGER_FILES
    assert {name: lines for name, lines in lengths.items() if lines > limits[name]} == {}


def test_functions_fit_on_one_screen(sources: tuple[Module, ...]) -> None:
    lengths = {
        f"{module.name}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module in sources
        for function in module.functions
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGER_FUNCTIONS.get(name, MAX_FUNCTION)} == {}
    assert max(LONGER_FUNCTIONS.values(), default=0) <= 60


def test_everything_public_is_annotated_and_documented(sources: tuple[Module, ...]) -> None:
    found = [
        module.where(function.lineno)
        for module in sources
        for function in module.functions
        if function.returns is None
        or any(word.annotation is None for word in function.args.args if word.arg not in ("self", "cls"))
        or (function in module.tree.body and not function.name.startswith("_") and not ast.get_docstring(function))
    ]
    assert found == []
