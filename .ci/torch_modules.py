"""What mypy must be told of torch's modules."""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny


class TorchModules(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        if fullname.startswith('torch.nn.modules.module.Module.'):
            return _anything
        return None


def _anything(context: AttributeContext) -> Type:
    if 'Tensor' in str(context.default_attr_type) and 'Module' in str(context.default_attr_type):
        return AnyType(TypeOfAny.special_form)
    return context.default_attr_type


def plugin(version: str) -> type[Plugin]:
    return TorchModules
