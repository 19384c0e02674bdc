"""`import relight` is light; its public names are fetched when they are asked for."""

from __future__ import annotations

import subprocess
import sys


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_relight_loads_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'pydantic', 'rich', 'typer', 'psutil')"
    assert _run(f"import relight, sys; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_a_task_config_needs_no_torch() -> None:
    assert _run("from relight import TaskConfig, option; import sys; print('torch' in sys.modules)") == "False"


def test_every_public_name_is_there() -> None:
    code = "import relight; print(all(getattr(relight, name) is not None for name in relight.__all__))"
    assert _run(code) == "True"
    assert _run("import relight; print(set(relight.__all__) <= set(dir(relight)))") == "True"


def test_an_unknown_name_is_an_attribute_error_as_for_any_module() -> None:
    assert _run("import relight; print(hasattr(relight, 'Nonsense'))") == "False"
