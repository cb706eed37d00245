"""The documentation site builds without a warning, and its generated pages are full."""

import re
import subprocess
import sys

import pytest
from tool_runs import ROOT

from backbones import zoo


@pytest.mark.slow
def test_site_builds_without_warnings_and_the_zoo_has_every_model(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "WARNING -" not in result.stderr
    page = (tmp_path / "site" / "zoo" / "index.html").read_text()
    assert {model["Name"] for model in zoo.load()} <= set(re.findall(r"<code>([^<]+)</code>", page))
    assert "gradients of ordinary training" in (tmp_path / "site" / "changelog" / "index.html").read_text()
    assert "keep_every" in (tmp_path / "site" / "reference" / "revcol" / "index.html").read_text()
