import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lightning_gengap
from lightning_gengap.monitor.logged_keys import PREDICTED, PREFIX
from lightning_gengap.predictors.files import available_predictors, loads

try:
    import tomllib
except ImportError:  # Python 3.10; pytest brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DISTRIBUTIONS = {
    "lightning_fabric": "pytorch-lightning",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
}  # whose names differ from the modules'
PEERS = {"cleanlab", "curvlinops", "pyhessian"}  # with which benchmarks compare, where they are installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = Path(tmp_path_factory.mktemp("wheel"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=ROOT, check=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_carries_every_predictor_whole(wheel: zipfile.ZipFile):
    names = set(available_predictors()) - {"default"}
    assert names
    for name in names:
        text = wheel.read(f"lightning_gengap/pretrained_predictors/{name}.json").decode()
        assert loads(text, name).name == name


def test_wheel_is_typed_and_carries_every_module_but_no_tests_or_tables(wheel: zipfile.ZipFile):
    names = wheel.namelist()
    assert "lightning_gengap/py.typed" in names
    assert not [name for name in names if "tests" in name or name.endswith(".csv.gz")]
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lightning_gengap").rglob("*.py")}
    assert modules <= set(names), "a package is missing in [tool.setuptools]"


def test_readme_lists_every_key_that_is_always_logged():
    readme = (ROOT / "README.md").read_text()
    for key in PREDICTED:
        stem, _, end = key.rpartition("_")
        shown = f"{stem}_lower`, `_upper" if end in ("lower", "upper") else key
        assert f"`{PREFIX}{shown}`" in readme


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lightning_gengap", ("torch", "lightning", "numpy", "typer")),
        ("from lightning_gengap import *", ("wandb", "tensorboard", "typer")),
        ("from lightning_gengap import measure, load_predictor", ("lightning", "wandb", "tensorboard")),
    ],
)
def test_importing_the_package_imports_no_more_than_is_needed(code: str, absent: tuple[str, ...]):
    code = f"import sys\n{code}\nprint([name for name in {absent} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_public_names_are_those_that_resolve():
    assert set(lightning_gengap._MODULES) == set(lightning_gengap.__all__) <= set(dir(lightning_gengap))
    assert all(getattr(lightning_gengap, name).__name__ == name for name in lightning_gengap.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GapMonitr'"):
        lightning_gengap.GapMonitr  # noqa: B018


CORE = [f"lightning_gengap/{path.name}" for path in (ROOT / "lightning_gengap").iterdir() if path.name != "zoo"]


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (["lightning_gengap"], ["wandb", "report", "zoo"]),
        (CORE, ["wandb", "report"]),
        (["examples"], ["examples"]),
        (["tests", "benchmarks", "studies"], ["dev", "wandb", "report", "zoo", "compat"]),
    ],
)
def test_every_imported_distribution_is_declared(folders: list[str], extras: list[str]):
    optional = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]
    declared = {re.split(r"[\[<>=~!; ]", line)[0].lower() for line in requirements}
    scripts = [path for folder in ("benchmarks", "studies") for path in (ROOT / folder).glob("*.py")]
    own = {path.stem for path in (*ROOT.iterdir(), *scripts)}
    paths = [
        path
        for folder in folders
        for path in ((ROOT / folder).rglob("*.py") if (ROOT / folder).is_dir() else [ROOT / folder])
    ]
    imported = {name for path in paths for name in _imports(ast.parse(path.read_text(encoding="utf-8")))}
    foreign = imported - set(sys.stdlib_module_names) - own - PEERS - {"tomli"}
    assert {DISTRIBUTIONS.get(name, name).lower() for name in foreign} <= declared


def _imports(tree: Any) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_no_module_of_the_package_takes_a_public_name_from_the_package_itself():
    """Such an import would climb up unseen by the contracts, because the names are resolved when they are used."""
    for path in (ROOT / "lightning_gengap").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            if isinstance(node, ast.ImportFrom) and node.module == "lightning_gengap":
                assert not names & {*lightning_gengap.__all__, "*"}, f"{path} imports {names}"
            assert "lightning_gengap" not in names, path
