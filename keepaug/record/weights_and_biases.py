"""Weights & Biases as a sink of the record."""
import logging
import os

_logger = logging.getLogger('train')


def open_wandb(args, output_dir: str) -> None:
    """Starts a Weights & Biases run if `--log-wandb` asks for it and the package is there; else says so.

    Clears `args.log_wandb` where it is not.

    Raises:
        ValueError: `--wandb-resume-id` without `--resume`.
    """
    if not args.log_wandb:
        return
    try:
        import wandb
    except ImportError:
        _logger.warning('--log-wandb is set but wandb is not installed; pip install wandb to log there.')
        args.log_wandb = False
        return
    if args.wandb_resume_id and not args.resume:
        raise ValueError('--wandb-resume-id continues a run, so --resume must name its checkpoint.')
    wandb.init(
        project=args.wandb_project,
        name=os.path.basename(output_dir),
        config=vars(args),
        tags=args.wandb_tags,
        resume='must' if args.wandb_resume_id else None,
        id=args.wandb_resume_id or None,
    )
