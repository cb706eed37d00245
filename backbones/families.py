"""The two families of OpenMMLab packages, which share their import names and so cannot live in one environment."""

from importlib.metadata import PackageNotFoundError, version

FAMILIES = {
    "openmmlab": (
        "mmcv",
        "mmcv-full",
        "mmcv-lite",
        "mmengine",
        "mmengine-lite",
        "mmdet",
        "mmsegmentation",
        "mmpretrain",
    ),
    "onedl": ("onedl-mmcv", "onedl-mmengine", "onedl-mmdetection", "onedl-mmsegmentation", "onedl-mmpretrain"),
}


def installed_families() -> dict[str, dict[str, str]]:
    """Finds the installed distributions of each family, by name and without importing them.

    Returns:
        Family -> distribution -> version, holding only families of which something is installed.
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
    """Refuses an environment that holds both families.

    Raises:
        ImportError: naming what is installed of each family, and the way out.
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
        "install one, `pip install -e .[onedl]` (maintained, the default) or `pip install -e .[openmmlab]` (upstream)."
    )
