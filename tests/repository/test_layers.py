"""Nothing but `relight.training` loads torch: seen in the modules that a fresh interpreter really loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_LOAD = """
import importlib, pkgutil, sys, threading
banned, roots = sys.argv[1].split(","), sys.argv[2].split(",")
files = len(list(__import__("pathlib").Path.cwd().iterdir()))
count = 0
for root in roots:
    package = importlib.import_module(root)
    names = [root]
    def failed(name):
        raise SystemExit(f"{name} does not import")
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), root + ".", onerror=failed):
        names.append(module.name)
    for name in names:
        if name.rpartition(".")[2] == "__main__":
            continue
        importlib.import_module(name)
        count += 1
        loaded = sorted(b for b in banned if b in sys.modules)
        if loaded:
            raise SystemExit(f"importing {name} loaded {', '.join(loaded)}")
started = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
if started:
    raise SystemExit(f"importing started threads: {started}")
if len(list(__import__("pathlib").Path.cwd().iterdir())) != files:
    raise SystemExit("importing wrote files")
print(count)
"""


def _list_torch_free() -> list[str]:
    """The packages and modules directly in core/relight, but the training part."""
    folder = ROOT / "core" / "relight"
    found = [path for path in folder.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))]
    return sorted(f"relight.{path.stem}" for path in found if path.stem not in ("__init__", "__main__", "training"))


def _load(roots: list[str], *, banned: str, cwd: Path) -> int:
    """Import everything under the roots in a new interpreter; the number of modules it imported."""
    result = subprocess.run(
        [sys.executable, "-c", _LOAD, banned, ",".join(roots)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", _list_torch_free())
def test_each_torch_free_package_loads_no_torch_and_no_dashboard(package: str, tmp_path: Path) -> None:
    assert _load([package], banned="torch,relight.training,streamlit,plotly,relight_app", cwd=tmp_path) >= 1


def test_the_dashboard_loads_no_torch(tmp_path: Path) -> None:
    assert _load(["relight_app"], banned="torch,relight.training", cwd=tmp_path) > 1


def test_the_supervisor_loads_neither_numpy_nor_pydantic(tmp_path: Path) -> None:
    assert _load(["relight.supervision"], banned="numpy,pydantic,torch,rich,typer,obstore", cwd=tmp_path) > 1


def test_every_torch_free_package_is_under_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [c for c in settings["contracts"] if c["name"] == "The torch-free part never loads torch"]
    assert sorted(contract["source_modules"]) == _list_torch_free()


def test_source_roots_are_not_packages() -> None:
    assert not [root for root in ("core", "app") if (ROOT / root / "__init__.py").exists()]
