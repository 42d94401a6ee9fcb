"""What a training recipe may say; `instruct_data.recipes.read_settings` reads one."""

from dataclasses import dataclass, field
from typing import Literal

# The tower from its fourth block up, and all else but the sentence encoder and the word embeddings.
STAGE1_TRAINS = [
    "vision.backbone.encoder.layer.([3-9]|1[01])", "vision.readout", "qformer1", "heads", "shortcut",
    "fault_head", "alignment",
]  # fmt: skip
STAGE2_TRAINS = ["qformer2", "bridge", "language_projection", "language.*lora_[AB].*"]


@dataclass
class Optimization:
    """How a run learns; shared by every stage."""

    output: str = "runs/run"
    # Regular expressions; each is the name of a parameter or of a module. What none names stays as it is.
    trains: list[str] = field(default_factory=list)
    batch_size: int = 32  # examples a step, over all processes
    accumulation: int = 1  # parts that a process computes its share of a step in, to save memory
    learning_rate: float = 2e-4  # of Q-Formers; in stage 2 of all but the LoRA
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    bf16: bool = True  # autocast, where the processor has bfloat16; weights keep their own precision
    seed: int = 0
    stop_after: int | None = None  # steps after which the run ends, whatever its schedule
    save_steps: int = 100
    log_steps: int = 10
    threads: int = 0  # 0: torch's choice


@dataclass
class Stage1(Optimization):
    """Recipe of a stage-1 run: photographs with captions, AGIQA-3K and your own ratings, shuffled."""

    trains: list[str] = field(default_factory=lambda: list(STAGE1_TRAINS))
    output: str = "runs/stage1"
    # A config to start from its parts, or a checkpoint to go on from: a preset, a folder, a hub id.
    model: str = "configs/nano/model.json"
    head_learning_rate: float = 6e-4  # of all else that trains: heads, shortcut, read-out, projections
    tower_learning_rate: float = 1e-4  # of the vision tower's last block
    layer_decay: float = 0.8  # factor from each block to the one below it
    human_epochs: float = 0.0  # passes over the clean AGIQA-3K training pictures
    faulted_share: float = 0.35  # faulted and small twins per clean picture and pass
    ratings: str | list[str] = field(default_factory=list)  # your own: CSV files, JSON Lines of instruct_data
    images: str | None = None  # folder of their pictures; that of each file if left out
    columns: dict[str, str] = field(default_factory=dict)  # of CSV files, e.g. {quality: "mos:1:5"}
    rating_epochs: float = 1.0  # passes over them
    photograph_epochs: float = 0.0  # passes over Flickr8k, each picture clean or faulted in turn
    held_out_photographs: int = 500  # the last ones and their captions, which no stage learns from
    folds: int = 5  # by prompt, of AGIQA-3K and of your own ratings
    test_fold: int | None = None  # None trains on every prompt
    leave_out: str | None = None  # a generator of AGIQA-3K that is only tested on
    contrastive_weight: float = 0.2
    rank_weight: float = 0.5
    fault_weight: float = 0.5
    no_prompt_share: float = 0.3  # of second looks at a picture: without prompt instead of a wrong one


@dataclass
class Language:
    """The LLM that stage 2 teaches."""

    source: str | None = None  # its folder, where the model's config names none
    dtype: Literal["float32", "bfloat16"] = "float32"  # of its frozen weights
    quantization: Literal["nf4"] | None = None  # of its frozen linear layers; computes in bfloat16
    gradient_checkpointing: bool = False  # half the memory for a third more time


@dataclass
class Lora:
    """Low-rank updates of the LLM's linear layers."""

    rank: int = 16  # 0: the LLM stays as it is
    alpha: int = 32
    learning_rate: float = 5e-4
    targets: list[str] = field(default_factory=list)  # names of layers; none: all of the LLM's blocks


@dataclass
class Stage2(Optimization):
    """Recipe of a stage-2 run."""

    trains: list[str] = field(default_factory=lambda: list(STAGE2_TRAINS))
    output: str = "runs/stage2"
    stage1: str = "runs/stage1"  # a finished stage-1 run: its model and its split
    start: str | None = None  # in place of it: a model that explains already (nano, a folder), to go on from
    weight_decay: float = 0.01
    examples: int = 8000
    instructions: str | None = None  # in place of examples: samples of instruct_data, file or folder
    images: str | None = None  # folder of their pictures; their own if left out
    passes: float = 1.0  # over these samples
    copy_qformer: bool = True  # Q-Former 2 starts as stage 1's; False: as the start brings it
    language: Language = field(default_factory=Language)
    lora: Lora = field(default_factory=Lora)
    grounding_weight: float = 0.5  # of `Explainer.grounding_loss` beside the answer's cross-entropy
