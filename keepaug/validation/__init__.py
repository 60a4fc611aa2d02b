"""The parts of validate.py: which models, which images, which scores, the file of results."""

from keepaug.validation.classes import class_names, find_classes
from keepaug.validation.images import build_loader, build_split, build_validation_set, read_valid_labels
from keepaug.validation.model import compile_model, load_model, warm_up
from keepaug.validation.processes import join_processes
from keepaug.validation.results import check_files, headline, retry_smaller, rounded, write_results
from keepaug.validation.scores import ValidationLines, build_evaluator, build_scores, check_averaging
