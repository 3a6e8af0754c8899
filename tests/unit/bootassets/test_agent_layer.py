"""What is packed of the agent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bootassets import agent_layer


def test_agent_runs_on_what_is_packed(tmp_path: Path) -> None:
    """Breaks if the agent imports something that is not packed, or that is not in the standard library."""
    for name, source in agent_layer.files().items():
        copy = tmp_path / Path(name).relative_to(agent_layer.HOME)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    modules = [
        ".".join(Path(name).relative_to(agent_layer.HOME).with_suffix("").parts)
        for name in agent_layer.files()
        if not name.endswith("__init__.py")
    ]
    program = f"import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})\n" + "".join(
        f"importlib.import_module({module!r})\n" for module in modules
    )
    # -I -S: no site-packages, no current folder.
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
    assert "provider.agent.__main__" in modules
