"""README works as printed."""

import re
import subprocess
import sys

from conftest import ROOT

from backbones import cli

TEXT = (ROOT / "README.md").read_text()


def test_python_prints_the_four_shapes():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    shapes = [line for line in result.stdout.splitlines() if line.startswith("(1, ")]
    assert len(shapes) == 4
    assert [shape for shape in shapes if f"`{shape}`" not in TEXT] == []


def test_paths_exist():
    paths = set(re.findall(r"(?<![\w./])(?:tools|configs|docs|tests)/[\w./-]+\.(?:py|sh|md|png|jpg|yml)", TEXT))
    paths |= {link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not link.startswith("http")}
    assert len(paths) > 12
    assert sorted(path for path in paths if not (ROOT / path).is_file()) == []


def test_commands_parse():
    verbs = {"train": "train", "test": "test", "drop_in": "drop-in", "export_weights": "export-weights"}
    lines = re.findall(r"^python tools/(\w+)\.py (.+?)(?: +#.*)?$", TEXT, flags=re.MULTILINE)
    assert len(lines) == 6
    for script, arguments in lines:
        cli.parse_args(verbs[script], arguments.split())


def test_readme_is_short():
    assert TEXT.count("\n") <= 130
