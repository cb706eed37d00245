"""Checks ``--cfg-options`` against the config and the signatures of its classes, so that a typo is an error.

Requiring ``+`` for every key that the config lacks would need no signatures, but ``randomness.seed=0`` or
``train_dataloader.dataset.indices=8`` are common, and classes with ``**kwargs`` accept misspelt keys silently.
"""

import difflib
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config, DictAction
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from backbones.config.lookup import registered

HELP = """change settings of the config: KEY=VALUE ..., for example train_dataloader.batch_size=4
"train_dataloader.dataset.pipeline.2.prob=0.3" "optim_wrapper.optimizer.betas=(0.9,0.99)". A key must be in the config
or be an argument of the class it goes to; write +KEY=VALUE for one that neither declares. KEY._delete_=True replaces
the whole value KEY instead of merging into it"""


class Options(DictAction):
    """``KEY=VALUE ...``, of which every one must parse."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if wrong := [value for value in values if not value.partition("=")[1]]:
            parser.error(f"{option_string}: {wrong[0]!r} is not of the form KEY=VALUE")
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string or "")
            except (ValueError, AssertionError, RecursionError):
                parser.error(f"{option_string} {value}: the value cannot be read; lists are written as [1,2] or 1,2")


def _arguments(function: Any) -> set[str]:
    """Argument names of a function or a constructor, following ``**kwargs`` up the base classes.

    Contains ``'**'`` if any name is accepted.
    """
    owners = (
        [vars(c)["__init__"] for c in function.__mro__ if "__init__" in vars(c)]
        if inspect.isclass(function)
        else [function]
    )
    names: set[str] = set()
    for owner in owners:
        parameters = inspect.signature(owner).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return names | {"**"}


REGISTRIES = [
    registries.MODELS,
    registries.DATASETS,
    registries.TRANSFORMS,
    registries.DATA_SAMPLERS,
    registries.TASK_UTILS,
    registries.OPTIMIZERS,
    registries.OPTIM_WRAPPERS,
    registries.PARAM_SCHEDULERS,
    registries.LOOPS,
    registries.HOOKS,
    registries.METRICS,
    registries.EVALUATOR,
    registries.VISUALIZERS,
    registries.VISBACKENDS,
    registries.LOG_PROCESSORS,
]

# Allowed keys of the dicts without a ``type``, by their place in the config.
LOADER = (_arguments(Runner.build_dataloader) | _arguments(DataLoader) | {"num_batch_per_epoch"}) - {
    "dataloader",
    "seed",
}
LOOP = {"by_epoch"} | (_arguments(EpochBasedTrainLoop) | _arguments(IterBasedTrainLoop)) - {"runner", "dataloader"}
ROOT_EXTRAS = {  # read from the config, but no arguments of Runner
    *("runner_type", "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile"),
    *("activation_checkpointing", "efficient_conv_bn_eval"),
}
UNTYPED = {
    "": (_arguments(Runner) - {"cfg"}) | ROOT_EXTRAS,
    "train_dataloader": LOADER,
    "val_dataloader": LOADER,
    "test_dataloader": LOADER,
    "train_cfg": LOOP,
    "optim_wrapper": _arguments(OptimWrapper),
    "randomness": _arguments(Runner.set_randomness) - {"self"},
    "auto_scale_lr": {"enable", "base_batch_size"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
}


def _registered(name: str) -> Iterator[Any]:
    """Every class or function of this name in mmengine's registries, seen from the current default scope."""
    for root in REGISTRIES:
        if (found := registered(root, name)) is not None:
            yield found


def _allowed(node: dict, where: str, options: dict) -> set[str]:
    """Keys that may be added to ``node``; contains ``'**'`` if any may."""
    kind = options.get(f"{where}.type", node.get("type"))
    classes = [] if kind is None else _registered(kind) if isinstance(kind, str) else [kind]
    allowed = set().union(*map(_arguments, classes)) or UNTYPED.get(where, set())
    if where == "optim_wrapper":  # consumed by the runner and the constructor
        allowed = allowed | {"constructor", "paramwise_cfg"}
    if where and not where.rpartition(".")[2].isdigit():  # mmengine cannot replace an entry of a list
        allowed = allowed | {"_delete_"}
    return allowed | {"type"} if where else allowed


def _paths(node: Any, name: str, where: str = "") -> Iterator[str]:
    """Other places of a key in the config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        here = f"{where}.{key}" if where else str(key)
        if key == name and where:
            yield here
        yield from _paths(value, name, here)


def _check(cfg: dict, key: str, options: dict) -> None:
    """Raise ``ValueError`` unless ``key`` has an effect."""
    parts = key.split(".")
    if parts[0] in cfg and parts[0] not in UNTYPED[""]:
        elsewhere = [path for path in _paths(cfg, parts[0]) if not re.search(r"\.\d+\.", path)]
        raise ValueError(
            f"--cfg-options {key}: '{parts[0]}' is a helper variable of the config file, already used when the file "
            "was read; changing it here has no effect. Change the settings made from it: "
            + (", ".join(elsewhere) or "see the config")
        )
    node: Any = cfg
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if isinstance(node, dict):
            if part in node:
                node = node[part]
                continue
            allowed = _allowed(node, where, options)
            if part in allowed or "**" in allowed:
                return
            known = sorted(allowed | set(map(str, node)) if where else allowed)
            near = [f"{where}.{name}" if where else name for name in difflib.get_close_matches(part, known, cutoff=0.5)]
            raise ValueError(
                f"--cfg-options {key}: {f'{where!r} has' if where else 'there is'} no '{part}'"
                + (f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}")
                + f" (write +{key}=... if this new key is meant)"
            )
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(
                    f"--cfg-options {key}: '{where}' is a list; name one of its entries, 0 to {len(node) - 1}"
                )
            node = node[int(part)]
        elif f"{where}._delete_" in options:
            return
        else:
            raise ValueError(
                f"--cfg-options {key}: '{where}' is {node!r}, not a dict; "
                f"add {where}._delete_=True to replace it by one"
            )


def _check_value(cfg: dict, key: str, value: Any) -> None:
    """Raise ``ValueError`` for a value that cannot stand where the settings of a class, or its name, stood."""
    if key.rpartition(".")[2] == "type" and not (isinstance(value, str) or callable(value)):
        raise ValueError(f"--cfg-options {key}: {value!r} is not the name of a class")
    node: Any = cfg
    for part in key.split("."):
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    settings = isinstance(node, dict) and ("type" in node or key in UNTYPED or key == "default_hooks")
    entries = value if isinstance(value, (list, tuple)) else [value]
    if settings and value is not None and not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"--cfg-options {key}: {value!r} cannot replace a dict of settings; change one of them, such as "
            f"{key}.{next(iter(node), 'type')}"
        )


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``, in place.

    Args:
        cfg: The config; its default scope must be the current one.
        options: Dotted keys and their new values; a leading ``+`` allows an undeclared key.

    Raises:
        ValueError: for a key that has no effect or would fail later; the message names similar keys.
    """
    values = {key.lstrip("+"): value for key, value in options.items()}
    for key, inner in itertools.permutations(values, 2):
        if inner.startswith(f"{key}."):
            raise ValueError(f"--cfg-options {key} and {inner}: the first replaces what the second changes; give one")
    tree = cfg.to_dict()
    for key, value in options.items():
        if not key.startswith("+"):
            _check_value(tree, key, value)
            _check(tree, key, values)
    try:
        cfg.merge_from_dict(values)
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # of +KEY, which is not checked
        raise ValueError(
            f"--cfg-options {' '.join(options)}: there is no such place in the config ({error})"
        ) from error
