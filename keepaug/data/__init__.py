"""The loader's side: data sets, transforms, loaders, seeding."""

from keepaug.data.checks import check_class_folders, check_class_map, check_data_folder, check_named_set
from keepaug.data.loaders import average_batch_size, build_eval_loader, build_train_loader, set_epoch
from keepaug.data.mixing import build_mixing
from keepaug.data.seeding import seed_epoch
from keepaug.data.sets import build_eval_dataset, build_train_dataset
