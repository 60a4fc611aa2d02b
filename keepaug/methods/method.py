"""What a method is: all that the command line, the log and the pictures must know of it, in one object."""

import argparse
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.task import TrainingTask
from torch import nn
from torch.utils.data import Dataset

from keepaug.augment import BatchAugment, Compose
from keepaug.data.transform import TransformChanges
from keepaug.ranges import Range, choice_problem
from keepaug.training.augmented_task import AugmentedTask

Refusal = tuple[bool, str]  # whether something is refused, and the sentence that says so


class Need(enum.Flag):
    """What a method cannot do without. Each is taken away by a flag of stock's, which is refused beside the method."""

    IMAGES = enum.auto()
    WHOLE_BATCHES = enum.auto()
    OPEN_MODEL = enum.auto()
    BARE_MODEL = enum.auto()
    OWN_SCRIPT = enum.auto()


# Whether a need is not met, and what to say of it; `OWN_SCRIPT` is the business of `keepaug.methods.refusals`.
UNMET: dict[Need, tuple[Callable[[argparse.Namespace], bool], str]] = {
    Need.IMAGES: (
        lambda args: args.naflex_loader,
        '{flag} needs images, but --naflex-loader makes batches of patches: drop one of the two.',
    ),
    Need.WHOLE_BATCHES: (
        lambda args: args.aug_splits > 1,
        '{flag} cannot keep the splits of --aug-splits {args.aug_splits} apart: drop one of the two.',
    ),
    Need.OPEN_MODEL: (
        lambda args: args.torchscript,
        '{flag} looks inside the model, which --torchscript closes: drop one of the two.',
    ),
    Need.BARE_MODEL: (
        lambda args: bool(args.kd_model_name) and args.kd_distill_type == 'feature',
        '{flag} does not work with --kd-distill-type feature, which trains a model of its own: choose logit or token.',
    ),
}


@dataclass(frozen=True)
class Flag:
    """One flag of a method.

    Attributes:
        option: As it is typed, such as '--keep-size'.
        help: What `--help` says of it.
        parameter: The hyper-parameter of the augmentation that it sets; empty for none.
        default: Value where it is not given.
        type: Makes a value of what is typed; None for a switch that is given or not.
        alone: Value of the flag without one; None where it needs one.
        choices: Values it may have; empty for any.
        values: Its values in words, where it can stand alone and has no choices.
        range: Values a number may have; None for what is no number.
        metavar: What stands for the value in `--help`.
        in_image: Whether the value is a length that must fit into the image.
        none_is_typed: Whether None, typed `none`, is a value and not the default.
        resumable: Whether the parts of one exactly resumed run may differ in it: it changes no number.
    """

    option: str
    help: str
    parameter: str = ''
    default: Any = None
    type: Callable[[str], Any] | None = None
    alone: Any = None
    choices: Sequence = ()
    values: str = ''
    range: Range | None = None
    metavar: str | None = None
    in_image: bool = False
    none_is_typed: bool = False
    resumable: bool = False

    @property
    def dest(self) -> str:
        """Name of the option."""
        return self.option.lstrip('-').replace('-', '_')

    @property
    def unset(self) -> Any:
        """Value where the flag is not given."""
        return False if self.type is None else self.default

    def add_to(self, group) -> None:
        """Puts the flag on a parser or a group of one."""
        if self.type is None:
            group.add_argument(self.option, action='store_true', help=self.help)
            return
        settings = dict(type=self.type, default=self.default, help=self.help)
        if self.choices:
            settings['choices'] = self.choices
        if self.metavar:
            settings['metavar'] = self.metavar
        if self.alone is not None:
            settings.update(nargs='?', const=self.alone)
        group.add_argument(self.option, **settings)

    def spell(self, args: argparse.Namespace) -> str:
        """The flag with its value, as it is typed."""
        value = vars(args)[self.dest]
        if self.type is None:
            return self.option
        return f'{self.option} {"none" if value is None and self.none_is_typed else value}'

    def is_given(self, args: argparse.Namespace) -> bool:
        """Whether its value is another than that of a command line without it."""
        return vars(args)[self.dest] != self.unset

    def problem(self, args: argparse.Namespace) -> str:
        """What is wrong with its value alone, as a sentence; empty where nothing is."""
        value = vars(args)[self.dest]
        problem = choice_problem(value, self.choices) if self.choices and value is not None else ''
        if self.range is not None:
            problem = self.range.problem(value)
        edge = shortest_edge(args)
        if not problem and self.in_image and value and edge and value > edge:
            problem = f'must be at most {edge}, the shorter edge of the images'
        return problem and f'{self.option} {problem}, got {value}.'


def shortest_edge(args: argparse.Namespace) -> int | None:
    """Shorter edge of the images in pixels, as far as the flags tell."""
    return min(args.input_size[1:]) if args.input_size else args.img_size


def typed(args: argparse.Namespace, name: str) -> Any:
    """An option of stock's as it was typed, whether or not a method has taken it over."""
    return vars(args.taken_over).get(name, vars(args)[name])


def is_typed_zero(args: argparse.Namespace, name: str) -> bool:
    """Whether an option of stock's that is 0 where it is not set was set to 0; asked in `Method.refuses` alone."""
    return name in args.typed and not typed(args, name)


def spell(name: str, value: Any = None) -> str:
    """An option as a user types it, with its value if one is given."""
    flag = '--' + name.replace('_', '-')
    if value is None or value is True:
        return flag
    return f'{flag} {" ".join(map(str, value)) if isinstance(value, (list, tuple)) else value}'


class Method:
    """A method of augmentation or training, and all that is known of it outside the code that does it.

    One object per method is registered (`register_method`), in the order in which a batch meets them. Whatever lists
    methods asks the registry: the parser, the checks, `prepare`, what builds data sets, loaders and tasks, the start
    block of the log, previews, replays, the table of combinations.

    A subclass sets attributes, and overrides what differs from the plain case of one batch augmentation.

    Attributes:
        name: As the log calls it. An augmentation that `build` gives carries it unless it has one of its own.
        title: Heading of its flags in `--help`.
        switch: The flag that turns it on; None for what has no flag of its own.
        settings: Its other flags. Those that several methods share are the same objects.
        augments: Names of the registered augmentations that it builds.
        needs: What it cannot do without.
        on_batches: Whether it changes batches on the device. Stock's label mixing then moves there too, behind what
            must see whole images.
        uses_alpha_of: Stock's label mixers whose settings it takes over where it mixes labels itself.
        only_in_training: Why its images cannot be had outside of training; empty where they can.
        region: What happens in the region `mask` of `last`, as a participle.
        keeps_region: Whether the region is what remains of the image, and not what is lost.
        pictures: What of `last` is worth a picture, in the order of the columns: its label, and whether it is a map.
            Besides there is `partner_image`, the image that each row is mixed with.
        outlined: Those of them on which the region is outlined.
        example: A command line that turns it on, for the documentation and its tests.
    """

    name = ''
    title = ''
    switch: Flag | None = None
    settings: tuple[Flag, ...] = ()
    augments: tuple[str, ...] = ()
    needs = Need.IMAGES | Need.WHOLE_BATCHES
    on_batches = True
    uses_alpha_of: tuple[str, ...] = ()
    only_in_training = ''
    region = 'removed'
    keeps_region = False
    pictures: Mapping[str, tuple[str, bool]] = {
        'augmented': ('policy', False),
        'grid': ('attention', True),
        'saliency': ('saliency', True),
    }
    outlined: tuple[str, ...] = ('saliency',)
    example = ''

    @property
    def flags(self) -> tuple[Flag, ...]:
        """All its flags."""
        return self.settings if self.switch is None else (self.switch, *self.settings)

    @property
    def way_on(self) -> str:
        """The flag that turns it on, for advice."""
        return '' if self.switch is None else self.switch.option

    def is_on(self, args: argparse.Namespace) -> bool:
        """Whether the options turn it on."""
        return self.switch is not None and vars(args)[self.switch.dest] not in (None, False)

    def follows(self, others: Sequence['Method'], args: argparse.Namespace) -> bool:
        """Whether it is on because others are, which turn on by themselves."""
        return False

    def spelled(self, args: argparse.Namespace) -> str:
        """What turned it on, as it was typed: the name by which sentences call it."""
        if self.switch is None:
            return self.name
        value = vars(args)[self.switch.dest]
        return self.switch.option if value == self.switch.alone else self.switch.spell(args)

    def needed(self, args: argparse.Namespace) -> Need:
        """What it needs with these options."""
        return self.needs

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        """Options, its own and stock's, that have no effect here, each with where: 'with --keep-cut erase'."""
        return {}

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        """What cannot be with it, beyond its needs and the ranges of its flags; asked only where it is on."""
        yield from ()

    def weight_files(self, args: argparse.Namespace) -> dict[str, str]:
        """Files of weights that it reads, by the flag that names them; asked only where it is on."""
        return {}

    def check_data(self, args: argparse.Namespace) -> None:
        """Looks by names and listings alone at the data that it reads, before anything is built.

        Raises:
            ValueError: They cannot be used.
        """

    def fetches_weights(self, args: argparse.Namespace) -> bool:
        """Whether it may have to fetch pretrained weights; asked only where it is on."""
        return False

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        """Whether targets come out mixed."""
        return False

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        """What it does in stock's place: options of stock's, with the values that switch stock off."""
        return {}

    def moves_mixing(self, args: argparse.Namespace) -> bool:
        """Whether stock's label mixing must follow it onto the device."""
        return self.on_batches

    def uses_saliency(self, args: argparse.Namespace) -> bool:
        """Whether it looks at saliency by the pass of `--keep-saliency`."""
        return False

    def build(self, args: argparse.Namespace, model: nn.Module) -> BatchAugment | None:
        """The augmentation that batches pass through on the device; None where it works elsewhere.

        Args:
            args: Options returned by `keepaug.prepare`.
            model: The bare model in training, or an `EarlyExit` around it.

        Raises:
            HyperParameterError: A value does not fit; it is told by its flag (`flag_of`).
            ValueError: Something else does not.
        """
        return None

    def outside_training(self, args: argparse.Namespace) -> dict[str, Any]:
        """Options that change where images are made as in training, but outside of it: in previews and replays."""
        return {}

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        """Adds to what becomes of the transform of training images."""

    def wrap_dataset(self, dataset: Dataset, args: argparse.Namespace) -> Dataset:
        """The training set as it wants it, before a loader is made."""
        return dataset

    def wrap_loader(self, loader, dataset: Dataset, args: argparse.Namespace):
        """The training loader that was made of a data set, as it wants it."""
        return loader

    def wrap_task(self, task: TrainingTask, args: argparse.Namespace) -> TrainingTask:
        """The training task as it wants it, before batches are augmented: a head or a loss of its own comes in here."""
        return task

    def augment_task(self, task: TrainingTask, augment: Compose, args: argparse.Namespace) -> AugmentedTask | None:
        """The task whose batches are augmented, where it needs one of its own kind; None for the common one."""
        return None

    def records(self, dataset: Dataset, args: argparse.Namespace) -> dict[str, str]:
        """Text files that it leaves in the run's folder, by name; they must stay the same when a run is resumed."""
        return {}

    def describe(self, args: argparse.Namespace) -> str:
        """Its line in the start block of the log, where it builds no augmentation that describes itself."""
        return ''

    def region_of(self, drawn: Mapping[str, Any]) -> str:
        """What happened in the region of a batch, given what was drawn for it (`last`), as a participle."""
        return self.region

    def flag_of(self, parameter: str, args: argparse.Namespace) -> str:
        """The flag that sets a hyper-parameter; the parameter itself where none does."""
        return next((flag.option for flag in self.flags if flag.parameter == parameter), parameter)
