"""Checks an environment for tools/env.sh; changes nothing.

It runs before anything is installed, so each check imports only the packages that it needs.

    env_check.py torch NEWEST          torch is from 2.4 to NEWEST and matches torchvision
    env_check.py mmcv                  mmcv's compiled operators load and run
    env_check.py family FAMILY         the other family is absent
    env_check.py packages FAMILY       as before, and the requirements of package, family and dev tools are installed
    env_check.py all FAMILY            packages and mmcv
    env_check.py requirements FAMILY   prints these requirements without torch and mmcv
    env_check.py version DISTRIBUTION  prints the pinned version of a host
    env_check.py wheel-key             prints the versions that a compiled mmcv depends on, in one word

Exit status: 0 yes, 1 no; the reason is printed.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 4)
FAMILIES = runpy.run_path(str(ROOT / "backbones" / "families.py"))  # the package itself imports mmengine


def release(text: str) -> tuple[int, int]:
    """Returns (major, minor) of a version such as ``2.12.1+cu130``."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def check_family(family: str) -> None:
    """Checks that nothing of the other family is installed.

    Raises:
        ImportError: naming its packages.
    """
    FAMILIES["check_families"]()
    for other, dists in FAMILIES["installed_families"]().items():
        if other != family:
            names = ", ".join(f"{name} {version}" for name, version in dists.items())
            raise ImportError(f"family {family} is wanted, but {sys.prefix} holds packages of {other}: {names}")


def check_torch(newest: str) -> str:
    """Checks that torch is in range and that torchvision matches it and works.

    Returns:
        The folder that holds torch.

    Raises:
        ImportError: if one is missing, out of range, or the two do not fit.
    """
    import torch
    import torchvision

    found = release(torch.__version__)
    if not OLDEST_TORCH <= found <= release(newest):
        raise ImportError(f"torch {torch.__version__} is not one of 2.4 to {newest}")
    if release(torchvision.__version__) != (0, found[1] + 15):  # torch 2.N goes with torchvision 0.(N + 15)
        raise ImportError(f"torchvision {torchvision.__version__} does not match torch {torch.__version__}")
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return str(Path(torch.__file__).parent.parent)


def check_mmcv() -> None:
    """Loads mmcv's compiled operators and runs one, on the GPU as well if torch sees one.

    Raises:
        ImportError: if they were built for another torch, or without CUDA on a machine that has it.
    """
    import torch
    from mmcv.ops import nms

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device), torch.ones(1, device=device), 0.5)
        except RuntimeError as error:
            raise ImportError(f"mmcv's operators do not run on {device}: {error}") from error


def requirements(family: str) -> list[Requirement]:
    """The requirements of the installed package, of the family and of development."""
    from packaging.requirements import Requirement

    needs = map(Requirement, metadata.requires("densebackbones") or [])
    extras = ("", family, "dev")
    return [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": name}) for name in extras)]


def check_packages(family: str) -> None:
    """Compares the installed packages with the requirements.

    Raises:
        ImportError: naming missing packages, other versions, or a package that comes from another checkout.
    """
    check_family(family)
    wrong = []
    for need in requirements(family):
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name}{need.specifier} (found: {found})")
    if wrong:
        raise ImportError("not as required: " + ", ".join(wrong))
    package = find_spec("backbones")
    if not package or not package.origin or Path(package.origin).parent.parent != ROOT:
        raise ImportError(f"'backbones' is not the one of {ROOT}: {package}")


def wheel_key() -> str:
    """Names Python, torch, CUDA, the GPU kinds the operators are compiled for, and the processor."""
    import torch

    gpus = "cpu"
    if torch.cuda.is_available():
        kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        gpus = "-".join(f"sm{major}{minor}" for major, minor in sorted(kinds))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{python}-torch{torch.__version__}-cuda{torch.version.cuda}-{gpus}-{platform.machine()}"


def main() -> None:
    """Answers one question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["torch", "mmcv", "family", "packages", "all", "requirements", "version", "wheel-key"]
    )
    parser.add_argument("value", nargs="?", default="")
    args = parser.parse_args()
    try:
        if args.what == "torch":
            print(check_torch(args.value))
        elif args.what == "mmcv":
            check_mmcv()
        elif args.what == "packages":
            check_packages(args.value)
        elif args.what == "all":
            check_packages(args.value)
            check_mmcv()
        elif args.what == "family":
            check_family(args.value)
        elif args.what == "version":
            print(FAMILIES["required_version"](args.value))
        elif args.what == "wheel-key":
            print(wheel_key())
        else:
            for need in requirements(args.value):
                if need.name not in ("torch", "mmcv", "onedl-mmcv"):  # their builds must fit each other: tools/env.sh
                    print(need.name, need.specifier)
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or cut short
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
