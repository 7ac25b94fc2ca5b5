"""Imports go one way, and only the configuration knows Hydra."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neo_model"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"utils", "ops"}
MIDDLE = {"data", "models", "losses", "optim"}
MAY_IMPORT = {
    "utils": set(),
    "ops": {"utils"},
    **{package: BASE for package in MIDDLE},
    "evaluation": BASE | MIDDLE,
    "engine": BASE | MIDDLE | {"evaluation"},
    "deploy": BASE | MIDDLE | {"evaluation", "engine"},
    "benchmark": BASE | MIDDLE | {"evaluation", "engine", "deploy"},
    "reports": BASE | MIDDLE | {"evaluation", "engine"},
    "config": BASE | MIDDLE | {"evaluation", "engine", "deploy", "reports"},
    "testing": BASE | MIDDLE | {"evaluation", "engine", "config"},
}
# Entry points: they read a configuration, and import what reads it inside the function that needs it.
ENTRY_POINTS = {
    *("benchmark/memory.py", "data/audit.py", "data/prepare.py", "deploy/convert.py", "deploy/predict.py"),
    *("models/list.py", "reports/dataset.py"),
}


def package_of(path: Path) -> str:
    """``models`` for neo_model/models/backbones/resnet_vd.py, nothing for neo_model/__init__.py."""
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def imports(tree: ast.AST, *, inside_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported module of a syntax tree, and whether the import waits inside a function."""
    for node in ast.iter_child_nodes(tree):
        inside = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield node.module, inside
            # ``from neo_model import data`` imports a package as well.
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names if node.module == "neo_model")
        yield from imports(node, inside_function=inside)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    return list(imports(ast.parse(path.read_text())))


def test_every_package_has_a_rule_and_every_rule_a_package():
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_only_what_lies_below_it(path):
    package, name = package_of(path), str(path.relative_to(PACKAGE))
    for module, inside_function in imports_of(path):
        if not module.startswith("neo_model."):
            continue
        imported = module.split(".")[1]
        is_entry = name in ENTRY_POINTS and inside_function and imported == "config"
        assert imported in MAY_IMPORT[package] | {package} or is_entry, f"{name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_configuration_imports_hydra(path):
    if package_of(path) == "config":
        return
    hydra = {module for module, _ in imports_of(path) if module.split(".")[0] in ("hydra", "omegaconf")}
    assert not hydra, f"{path.relative_to(ROOT)} imports {sorted(hydra)}"


def test_a_model_trains_from_plain_arguments_without_hydra():
    code = """
import sys
import torch
from neo_model import RTDETR
from neo_model.losses import Criterion, HungarianMatcher
from neo_model.models import ResNetVD

sizes = {"encoder_dim": 32, "decoder_dim": 32, "num_decoder_layers": 1, "num_queries": 10}
model = RTDETR(backbone=ResNetVD(depth=10, width=8), num_classes=3, **sizes)
targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
losses = Criterion(num_classes=3, matcher=HungarianMatcher())(model(torch.rand(1, 3, 64, 96), targets), targets)
sum(losses.values()).backward()
import neo_model.data, neo_model.deploy, neo_model.engine, neo_model.evaluation, neo_model.optim
print(sorted({"hydra", "omegaconf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
