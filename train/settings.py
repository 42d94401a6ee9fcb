"""What a training recipe may say; `instruct_data.settings.read_settings` reads one."""

from dataclasses import dataclass, field


@dataclass
class Optimisation:
    """How a run learns; shared by every stage."""

    batch_size: int = 32
    learning_rate: float = 2e-4  # of Q-Formers
    head_learning_rate: float = 6e-4  # of all else that trains: heads, shortcut, read-out, projections
    tower_learning_rate: float = 1e-4  # of the vision tower's last block
    layer_decay: float = 0.8  # factor from each block to the one below it
    freeze_blocks: int = 3  # the first blocks (and the patch embedding) stay as they are
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    bf16: bool = True
    seed: int = 0
    stop_after: int | None = None  # steps after which the run ends, whatever its schedule
    save_steps: int = 100
    log_steps: int = 10


@dataclass
class Stage1(Optimisation):
    """Recipe of a stage-1 run: captions first (`photographs`), then human scores (`human_epochs`)."""

    output: str = "runs/stage1"
    model: str = "configs/nano/model.json"  # a config to start from its parts, or a saved checkpoint's folder
    human_epochs: float = 0.0  # passes over the clean AGIQA-3K training pictures
    faulted_share: float = 0.35  # faulted and small twins per clean picture and pass
    photograph_epochs: float = 0.0  # passes over Flickr8k, each picture clean or faulted in turn
    held_out_photographs: int = 500
    folds: int = 5
    test_fold: int | None = None  # None trains on every prompt
    leave_out: str | None = None  # a generator that is only tested on
    contrastive_weight: float = 0.2
    rank_weight: float = 0.5
    fault_weight: float = 0.5
    no_prompt_share: float = 0.3  # of second looks at a picture: without prompt instead of a wrong one
    resume: bool = True
    threads: int = field(default=0)  # 0: torch's choice
