"""One environment holds one family of OpenMMLab packages; the check sees names only, so empty distributions do."""

import subprocess
import sys
from pathlib import Path

FAMILIES = Path(__file__).parent.parent / "backbones" / "families.py"


def look(tmp_path, *dists):
    """Runs the check in an interpreter that sees nothing but the given distributions; returns its last line."""
    for dist in dists:
        name, version = dist.split("==")
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code = f"import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path({str(FAMILIES)!r})['check_families']()"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, tmp_path], capture_output=True, text=True)
    return (run.stderr.splitlines() or [""])[-1]


def test_both_families_are_refused_by_name(tmp_path):
    error = look(tmp_path, "mmcv==2.1.0", "mmdet==3.3.0", "onedl-mmengine==0.10.12")
    assert error.startswith("ImportError: Both families")
    assert "openmmlab: mmcv 2.1.0, mmdet 3.3.0; onedl: onedl-mmengine 0.10.12" in error
    assert "pip uninstall -y mmcv mmdet onedl-mmengine`" in error


def test_one_family_or_none_is_fine(tmp_path):
    assert look(tmp_path) == ""
    assert look(tmp_path, "onedl-mmcv==2.3.6", "onedl-mmdetection==3.5.1", "mmcv-like==1.0") == ""


def test_check_is_quick_and_imports_only_the_standard_library():
    code = (
        "import runpy, sys, time, importlib.metadata; start, before = time.perf_counter(), set(sys.modules);"
        f"runpy.run_path({str(FAMILIES)!r})['check_families']();"
        "print(time.perf_counter() - start, *{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.05
    assert {module for _, *modules in runs for module in modules} <= sys.stdlib_module_names
