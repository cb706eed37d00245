"""The scope ``backbones`` of mmengine's registries.

``type='backbones.RevCol'`` makes mmengine import this module and look the name up below, so a config needs no
``custom_imports``. The classes themselves are registered once, in mmengine's root registries, the parents of these.
"""

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

MODELS = Registry("model", parent=ROOT_MODELS, scope="backbones", locations=["backbones"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="backbones",
    locations=["backbones"],
)
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope="backbones", locations=["backbones"])
