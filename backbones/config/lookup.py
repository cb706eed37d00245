"""Reads a config, imports its host and finds the classes that it names."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope

from backbones.config.hosts import HOSTS
from backbones.usage import UsageError

_LOOPS = ("train", "val", "test")
KINDS: dict[str, tuple[Any, str]] = {  # of the main settings
    **dict.fromkeys((f"{loop}_dataloader" for loop in _LOOPS), (dict, "a dict of settings")),
    **dict.fromkeys((f"{loop}_cfg" for loop in _LOOPS), (dict, "a dict of settings")),
    **dict.fromkeys(("model", "optim_wrapper", "default_hooks", "env_cfg", "randomness"), (dict, "a dict of settings")),
    "custom_hooks": ((list, tuple), "a list of dicts"),
    **dict.fromkeys(("default_scope", "load_from", "work_dir"), (str, "a text")),
}


def import_host(scope: str) -> None:
    """Import the modules of a config's default scope, without the lines that some hosts print while importing.

    Raises:
        ImportError: if the host is not installed or does not load.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        for module in ("models", "datasets"):
            importlib.import_module(f"{scope}.{module}")


def read_config(path: Path) -> Config:
    """Read a config, import its host and enter its default scope.

    Raises:
        UsageError: if the file or a base of it cannot be read, or its host is not installed.
    """
    try:
        cfg = Config.fromfile(path)
        check_kinds(cfg)
        scope = cfg.get("default_scope") or "mmengine"
        if scope in HOSTS:
            import_host(scope)
    except Exception as error:  # a config is a program
        reason: BaseException = error
        while isinstance(reason.__context__, ImportError):  # mmengine lists sys.path instead of the missing module
            reason = reason.__context__
        raise UsageError(f"{path} cannot be read: {reason}") from error
    init_default_scope(scope)
    return cfg


def check_kinds(cfg: Config) -> None:
    """Refuse a config with a number where settings belong, and the like.

    Raises:
        UsageError: naming the first.
    """
    for key, value in cfg.items():
        kinds, name = KINDS.get(key, (object, ""))
        if value is not None and not isinstance(value, kinds):
            raise UsageError(f"{key} is {value!r}; it must be {name}")
    for hook in cfg.get("custom_hooks") or ():
        if not isinstance(hook, dict) or "type" not in hook:
            raise UsageError(f"custom_hooks has {hook!r}; it must be a dict with the type of a hook")


def model_settings(cfg: Config) -> dict[str, Any]:
    """The settings of the model, with the data preprocessor that a runner would give it."""
    return {"data_preprocessor": cfg.get("data_preprocessor"), **cfg.model}


def registered(root: Registry, kind: Any) -> Any:
    """The class or function of a config's ``type``, seen from the current default scope, or None if there is none."""
    if not isinstance(kind, str):
        return kind
    with root.switch_scope_and_registry(None) as registry:
        try:
            return registry.get(kind)
        except RuntimeError:  # upstream returns None, the fork raises
            return None
