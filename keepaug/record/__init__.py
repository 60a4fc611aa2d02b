"""What a run leaves behind: its folder, checkpoints, numbers, pictures."""

from keepaug.record.exact_state import StockResume, open_exact_resume
from keepaug.record.recorder import NoRecorder, Recorder, open_recorder
from keepaug.record.resuming import check_resumed, check_weight_files, find_resume, resume, resume_ema
from keepaug.record.run_folder import check_output, hold_folder, open_output_dir
from keepaug.record.saver import build_saver
from keepaug.record.start_block import log_augmentations
