"""The settings of training recipes; `instruct_data.recipes.read_settings` reads one from YAML."""

from dataclasses import dataclass, field
from typing import Literal

# The tower from its fourth block up, and everything else except sentence encoder and word embeddings.
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
    stop_after: int | None = None  # steps after which the run ends; the schedule stays that of the full run
    save_steps: int = 100
    log_steps: int = 10
    threads: int = 0  # 0: torch's default


@dataclass
class HeldOut:
    """What a run keeps out of training, to test on. The recipe.json beside every model has it."""

    folds: int = 5  # by prompt, of AGIQA-3K and of your own ratings
    test_fold: int | None = None  # None trains on every prompt
    leave_out: str | None = None  # a generator of AGIQA-3K that is only tested on
    held_out_photographs: int = 500  # the last ones and their captions, which no step learns from


@dataclass
class Stage1(Optimization, HeldOut):
    """Recipe of a stage-1 run: photographs with captions, AGIQA-3K and your own ratings, shuffled."""

    trains: list[str] = field(default_factory=lambda: list(STAGE1_TRAINS))
    output: str = "runs/end_to_end"
    # A config to start from its parts, or a checkpoint to continue from: a preset, a folder, a hub id.
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
    contrastive_weight: float = 0.2
    rank_weight: float = 0.5
    fault_weight: float = 0.5
    no_prompt_share: float = 0.3  # of second looks at a picture: without prompt instead of a wrong one


@dataclass
class Align:
    """Recipe of the sentence space: photographs against captions, on frozen features of the tower."""

    start: str = "runs/pretrain"  # a finished run
    output: str = "runs/align"
    epochs: int = 60
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    dropout: float = 0.3  # of the features
    noise: float = 0.05  # added to them, in their standard deviations
    seed: int = 0


@dataclass
class HeadLoss:
    """What the heads are taught with; chosen on folds 0 and 4."""

    dropout: float = 0.0  # of the statistics
    sentence_dropout: float = 0.3  # of the picture's sentence vector
    # Human correspondence and quality correlate (SRCC .75), and each is a mean of few votes: what quality
    # predicts of correspondence is this share of its target. Held-out SRCC rises by some .025.
    quality_share: float = 0.67
    second_weight: float = 0.3  # of the second prompt's correspondence
    rank_weight: float = 1.0
    pair_weight: float = 0.5
    fault_weight: float = 0.3


@dataclass
class FrozenFit(HeadLoss):
    """How heads alone are fitted to frozen features, in a minute: the baseline of tuning."""

    dropout: float = 0.5
    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    seed: int = 0


@dataclass
class Tower:
    """How the tower learns with the heads; chosen on fold 0."""

    # Parameters of the tower's blocks and patch embedding with one of these in their names.
    trains: list[str] = field(default_factory=lambda: [".layer.", "patch_embeddings."])
    epochs: int = 4  # passes over the clean human-rated pictures
    others: float = 0.3  # faulted pictures and photographs per clean one and pass
    batch_size: int = 32
    learning_rate: float = 1e-4  # of the last block
    layer_decay: float = 0.8  # factor from each block to the one below it
    head_learning_rate: float = 6e-4
    weight_decay: float = 0.05
    averaging: float = 0.99  # of the running average of the weights, per step
    seed: int = 0


@dataclass
class OwnUnitsFit:
    """How the heads for authenticity and faults are fitted to the tuned tower; chosen on fold 0."""

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 5e-4
    # Higher separates more malformed pictures from sound ones, and takes authenticity further from quality.
    pair_weight: float = 0.3
    # Subtracted from the logit of malformation: clean pictures that it has learned from look sound, others
    # less so. Of those in fold 0 with a MOS of 3.5 or more, .09 are then called malformed; without it, .23.
    caution: float = 0.9
    seed: int = 0


@dataclass
class Tune(HeldOut):
    """Recipe of the scores: heads and tower together, then authenticity and faults."""

    start: str = "runs/align"  # a run with a model; frozen features of it are computed once, beside it
    output: str = "runs/tune"
    photographs: int = 1200  # of Flickr8k, the first
    tower: Tower = field(default_factory=Tower)
    heads: HeadLoss = field(default_factory=HeadLoss)
    own_units: OwnUnitsFit = field(default_factory=OwnUnitsFit)


@dataclass
class Match:
    """Recipe of the map of prompts, learned from a finished model's picture vectors."""

    start: str = "runs/tune"  # a finished run
    output: str = "runs/match"
    photographs: int = 700  # of Flickr8k, the first
    steps: int = 60
    learning_rate: float = 2e-3
    scale: float = 20.0  # of the cosines among which the right prompt must be found
    # Of the map's squared weights; which one is chosen by cross-validation, by prompt.
    penalties: list[float] = field(default_factory=lambda: [0.3, 0.1, 0.05, 0.03])
    missed: float = 0.05  # share of the pictures that show their prompt whose cosines lie below the knee
    slope: float = 2.0  # what a cosine of 1 less costs below it (0..1); chosen on fold 0
    unrelated: int = 5  # unrelated prompts per picture, to choose the penalty by
    seed: int = 0


@dataclass(frozen=True)
class Kernel:
    """Settings of the Gaussian process. concepts: how much the second network counts beside the first;
    noise: of the ratings, as a share of the prior's variance."""

    axes: int = 256
    concepts: float = 0.6
    gamma: float = 0.5
    noise: float = 0.15
    anchors: int = 768


@dataclass(frozen=True)
class Words:
    """Settings of the bridge to words. scale: of the cosines among which the right text must be found."""

    axes: int = 256
    steps: int = 200
    photographs: int = 320  # a step
    learning_rate: float = 2e-3
    decay: float = 0.5
    dropout: float = 0.2
    scale: float = 8.0


@dataclass(frozen=True)
class Regions:
    """Settings of the region head. cell: weight of the grid beside the picture; positive: of malformed
    cells."""

    passes: int = 5
    batch_size: int = 16
    learning_rate: float = 2e-3
    decay: float = 0.05
    cell: float = 4.0
    positive: float = 4.0


@dataclass
class Examine:
    """Recipe of the examiner. Its figures are of fits without a fold, whatever what ships learns from."""

    start: str = "runs/explain"  # a finished run, or a preset or folder: the model that gets the examiner
    output: str = "runs/examine"
    networks: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "detail": {"width": 1.0, "depth": 1.0},
            "concepts": {"width": 1.1, "depth": 1.2},
        }
    )
    parts: dict[str, str] = field(
        default_factory=lambda: {"detail": "efficientnet_lite0", "concepts": "efficientnet_lite2"}
    )
    kernel: Kernel = field(default_factory=Kernel)
    words: Words = field(default_factory=Words)
    regions: Regions = field(default_factory=Regions)
    decay: float = 1e-3  # of the lines for faults
    test_fold: int | None = None  # what ships doesn't learn from it; None: it learns from every prompt
    held_out_photographs: int = 500  # the last ones and their captions, which are tested on
    seed: int = 0


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
    output: str = "runs/explain"
    stage1: str = "runs/tune"  # a finished stage-1 run: its model and its split
    start: str | None = None  # instead: a model that already explains (nano, a folder), to continue from
    weight_decay: float = 0.01
    examples: int = 8000
    instructions: str | None = None  # instead of examples: samples of instruct_data, file or folder
    images: str | None = None  # folder of their pictures; their own if left out
    passes: float = 1.0  # over these samples
    copy_qformer: bool = True  # Q-Former 2 starts as stage 1's; False: as in the start
    language: Language = field(default_factory=Language)
    lora: Lora = field(default_factory=Lora)
    grounding_weight: float = 0.5  # of `Explainer.grounding_loss` beside the answer's cross-entropy
