"""How a training process ends: with its code, and without the teardown of Python that threads of gloo abort."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Python empties the modules after everything that it runs at exit; torch's threads are still there then.
_WITNESS = """
import sys

class Witness:
    def __del__(self):
        print("Python took itself apart", flush=True)

sys.modules["witness"] = Witness()
"""


def _run(tmp_path: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(_WITNESS)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_training_process_ends_with_its_code_and_its_output_and_no_teardown(tmp_path: Path) -> None:
    done = _run(tmp_path, "minicpmv.training", "--no_such_flag")
    assert done.returncode == 2
    assert "--no_such_flag" in done.stderr
    assert "Python took itself apart" not in done.stdout


def test_the_witness_of_a_teardown_speaks_in_another_process(tmp_path: Path) -> None:
    assert "Python took itself apart" in _run(tmp_path, "this").stdout
