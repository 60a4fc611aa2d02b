"""What mypy takes an attribute of a module for.

torch annotates `Module.__getattr__` with `Tensor | Module`, so that each use of what only the class of a model has, as
those of timm's do, would have to be narrowed first. Here it may be anything, as in torch up to 2.2. Attributes that a
class declares keep their types.
"""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Instance, Type, TypeOfAny, UnionType, get_proper_type

TOLD = {'torch._tensor.Tensor', 'torch.nn.modules.module.Module'}


class TorchModules(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _open if fullname.startswith('torch.nn.modules.module.Module.') else None


def _open(context: AttributeContext) -> Type:
    told = get_proper_type(context.default_attr_type)
    items = map(get_proper_type, told.items) if isinstance(told, UnionType) else ()
    names = {item.type.fullname if isinstance(item, Instance) else '' for item in items}
    return AnyType(TypeOfAny.special_form) if names == TOLD else context.default_attr_type


def plugin(version: str) -> type[Plugin]:
    """What mypy asks for."""
    return TorchModules
