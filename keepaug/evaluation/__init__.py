"""The papers' evaluations beyond accuracy, for any timm classifier: `validate.py --evaluate ...`."""

from keepaug.evaluation.report import Gallery, Panel, Report
from keepaug.evaluation.run import build_data, build_subject, check_evaluations, open_evaluations, run_evaluations
from keepaug.evaluation.subject import Subject

__all__ = [
    'Gallery',
    'Panel',
    'Report',
    'Subject',
    'build_data',
    'build_subject',
    'check_evaluations',
    'open_evaluations',
    'run_evaluations',
]
