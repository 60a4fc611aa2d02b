"""What `pip install keepaug` puts beside Python: one command per script."""

import functools
import importlib

from keepaug.console.errors import explain_errors


def _run(module: str) -> None:
    explain_errors(importlib.import_module(module).main)


train = functools.partial(_run, 'keepaug.train')
validate = functools.partial(_run, 'keepaug.validate')
preview = functools.partial(_run, 'keepaug.preview')
export = functools.partial(_run, 'keepaug.export.command')
plot = functools.partial(_run, 'keepaug.plot')
study = functools.partial(_run, 'keepaug.study.command')
demo = functools.partial(_run, 'keepaug.demo')
