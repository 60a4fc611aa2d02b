"""Images that cannot be read."""

import logging

from PIL import Image

from keepaug.data.depth import convert
from keepaug.data.wrapped import WrappedDataset

_logger = logging.getLogger('train')


class NamedFailures(WrappedDataset):
    """A data set of timm's that names the images it cannot read.

    As in timm the next image takes the place of one that cannot be read, with a warning each time, up to ten in a row.
    timm knows `OSError` alone for that and the number of the image alone for its name. Pillow has many other ways to
    say that a file is broken, or so large that it must be a trap, and each of them would end the run.
    """

    def __getitem__(self, index: int):
        image, target, *features = self._read(index)
        if self.dataset.transform is not None:
            image = self.dataset.transform(image)
        if target is None:
            target = -1
        elif self.dataset.target_transform is not None:
            target = self.dataset.target_transform(target)
        return (image, target) if self.dataset.additional_features is None else (image, target, *features)

    def _read(self, first: int) -> tuple:
        """A sample without its transforms: the one that is asked for, or the next that can be read.

        Raises:
            OSError: None of those that are tried can be read.
        """
        index = first
        for _ in range(self.dataset._max_retries):
            try:
                return self._decode(index)
            except OSError as error:
                _logger.warning(f'{self._name(index)} cannot be read and is left out: {error}')
                index = (index + 1) % len(self.dataset)
        raise OSError(f'{self._name(first)} and the images listed after it cannot be read: mend or remove them.')

    def _decode(self, index: int) -> tuple:
        file, *rest = self.dataset.reader[index]
        if self.dataset.load_bytes:
            return file.read(), *rest
        try:
            image = Image.open(file)
            if self.dataset.input_img_mode:
                image = convert(image, self.dataset.input_img_mode)
        except Exception as error:  # no error but the file's can come from here
            raise OSError(str(error) or type(error).__name__) from error
        return image, *rest

    def _name(self, index: int) -> str:
        try:
            return self.dataset.filename(index, absolute=True)
        except NotImplementedError:  # a reader whose images have none
            return f'Image {index}'
