"""The two families of OpenMMLab packages, which share their import names and so cannot live in one environment.

Imports the standard library only; setup.py and tools/env_check.py run this file without the package.
"""

from importlib.metadata import PackageNotFoundError, version

# The tested versions, and the extras of this package. ``onedl`` is the maintained fork and the default, ``openmmlab``
# the frozen original.
REQUIREMENTS = {
    "openmmlab": (
        "mmcv==2.1.0",
        "mmengine==0.10.7",
        "mmdet==3.3.0",
        "mmsegmentation==1.2.2",
        "mmpretrain==1.2.0",
        "ftfy",  # imported by mmsegmentation 1.2.2, missing from its requirements
        "regex",  # likewise
        "numpy<2",
        "setuptools<81",  # mmengine imports pkg_resources
    ),
    "onedl": (
        "onedl-mmcv==2.3.6",
        "onedl-mmengine==0.10.12",
        "onedl-mmdetection==3.5.1",
        "onedl-mmsegmentation==1.4.2",
        "onedl-mmpretrain==1.3.6",
    ),
}
FAMILIES = {
    family: tuple(requirement.partition("==")[0] for requirement in requirements if "==" in requirement)
    for family, requirements in REQUIREMENTS.items()
}
FAMILIES["openmmlab"] += ("mmcv-full", "mmcv-lite", "mmengine-lite")  # other builds of the same modules


def required_version(distribution: str) -> str:
    """The pinned version of a distribution of either family, such as ``onedl-mmcv``."""
    pins = dict(pin.split("==") for requirements in REQUIREMENTS.values() for pin in requirements if "==" in pin)
    return pins[distribution]


def installed_families() -> dict[str, dict[str, str]]:
    """Find the installed distributions of each family, by name and without importing them.

    Returns:
        Family -> distribution -> version, without families that are not installed.
    """
    found: dict[str, dict[str, str]] = {}
    for family, names in FAMILIES.items():
        for name in names:
            try:
                found.setdefault(family, {})[name] = version(name)
            except PackageNotFoundError:
                continue
    return {family: dists for family, dists in found.items() if dists}


def check_families() -> None:
    """Refuse an environment that holds both families.

    Raises:
        ImportError: naming the installed packages of each family, and the fix.
    """
    found = installed_families()
    if len(found) < 2:
        return
    lists = "; ".join(
        f"{family}: " + ", ".join(f"{name} {number}" for name, number in dists.items())
        for family, dists in found.items()
    )
    names = " ".join(name for dists in found.values() for name in dists)
    raise ImportError(
        f"Both families of OpenMMLab packages are installed ({lists}). They have the same import names and overwrite "
        f"each other's files, so removing one is not enough: uninstall both, `pip uninstall -y {names}`, then "
        "install one, by this package's extra `onedl` (maintained, the default) or `openmmlab` (upstream)."
    )
