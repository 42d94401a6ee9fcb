"""The trained parameters: named in the recipe, printed before a run, and all that a checkpoint holds."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mint_iqa.errors import MintIQAError
from mint_iqa.model.heads import Alignment, FaultHead, Shortcut
from mint_iqa.model.modeling import MintIQAModel, ScoreOutput

# Parts of MintIQAModel by the stage that teaches them.
STAGE1_PARTS = ("vision.", "qformer1.", "heads.", "fault_head.", "alignment.", "shortcut.")
STAGE2_PARTS = ("qformer2.", "vision2.", "bridge.", "language_projection.")


def alignment_of(model: MintIQAModel) -> Alignment:
    """The model's sentence space; MintIQAError if it has none."""
    if model.alignment is None:
        raise _lacking("no alignment encoder", "alignment")
    return model.alignment


def shortcut_of(model: MintIQAModel) -> Shortcut:
    """The model's shortcut; MintIQAError if it has none."""
    if model.shortcut is None:
        raise _lacking("no shortcut", "shortcut")
    return model.shortcut


def fault_head_of(model: MintIQAModel) -> FaultHead:
    """The model's fault head; MintIQAError if it has none."""
    if model.fault_head is None:
        raise _lacking("no faults", "faults")
    return model.fault_head


def faults_in(output: ScoreOutput) -> Tensor:
    """Logits float[B, F] of a model's output; MintIQAError if it has no fault head."""
    if output.faults is None:
        raise _lacking("no faults", "faults")
    return output.faults


def _lacking(what: str, key: str) -> MintIQAError:
    return MintIQAError(
        "bad_config", f"This step needs more than the model has: its config has {what}. Set {key} in it."
    )


class Learner(nn.Module):
    """What the Trainer drives: `forward(inputs)` gives the parts of the loss by name.

    Parameters of `self.model` go by their own names, any other's (the LLM's) with the attribute's in front.
    """

    def train(self, mode: bool = True) -> "Learner":
        """As usual, except that modules without a trained parameter stay in eval mode: dropout in a frozen
        part would only blur what the others learn from."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        return {name.removeprefix("model."): parameter for name, parameter in self.named_parameters()}


def declare(
    learner: Learner, patterns: Sequence[str], elsewhere: Callable[[str], bool], foreign: Sequence[str]
) -> None:
    """Train the parameters that a pattern names, and no others.

    A pattern is a regular expression for the whole name of a parameter or of a module around it. What lies
    `elsewhere` (`MintIQAConfig.is_referenced`) comes from a part, is never saved and so never trains.
    MintIQAError for an invalid regular expression, for one that names nothing that can train, and for one
    that names a `foreign` part.
    """
    parameters = learner.parameters_by_name()
    learner.requires_grad_(False)
    for pattern in patterns:
        try:
            expression = re.compile(rf"(?:{pattern})(\..*)?")
        except re.error as error:
            raise MintIQAError(
                "bad_config", f"trains: {pattern!r} is not a regular expression ({error})."
            ) from error
        named = [n for n in parameters if expression.fullmatch(n) and not elsewhere(n)]
        named = [n for n in named if parameters[n].is_floating_point()]  # quantized weights have no gradient
        if not named:
            raise MintIQAError(
                "bad_config",
                f"trains: {pattern!r} names nothing that can train: this model has {_parts(parameters)}.",
            )
        if wrong := [n for n in named if n.startswith(tuple(foreign))]:
            raise MintIQAError(
                "bad_config", f"trains: {pattern!r} names {wrong[0]}, which does not train here."
            )
        for name in named:
            parameters[name].requires_grad_(True)


def _parts(names: Sequence[str] | dict[str, nn.Parameter]) -> str:
    return ", ".join(dict.fromkeys(part_of(name) for name in names))


def part_of(name: str) -> str:
    """The first two steps of a parameter's path; for LoRA, the layer that it adapts."""
    if ".lora_" in name:
        return f"language {name.split('.lora_')[0].rsplit('.', 1)[1]} (LoRA)"
    return ".".join(name.split(".")[:2]).removesuffix(".weight").removesuffix(".bias")


def describe(learner: Learner) -> str:
    """A table of the parts that train with their numbers of parameters, and the share of all."""
    parameters = learner.parameters_by_name()
    counts = Counter[str]()
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            counts[part_of(name)] += parameter.numel()
    total, width = sum(p.numel() for p in parameters.values()), max(map(len, counts), default=0)
    lines = [f"  {part:<{width}}  {count:>13,}" for part, count in counts.items()]
    share = (
        f"Trains: {counts.total():,} of {total:,} parameters ({100 * counts.total() / max(total, 1):.1f} %)"
    )
    return "\n".join([share, *lines])


def trained_state(learner: Learner, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Trained weights by name; from `state` (under the module's own names) if processes share the weights."""
    own = state if state is not None else dict(learner.named_parameters())
    names = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
    return {name.removeprefix("model."): own[name].detach().cpu().clone() for name in names}


@torch.no_grad()
def restore(learner: Learner, state: dict[str, Tensor]) -> None:
    """Load what `trained_state` returned. MintIQAError if other parameters were trained."""
    parameters = learner.parameters_by_name()
    trains = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if differing := sorted(trains ^ state.keys()):
        raise MintIQAError(
            "bad_checkpoint",
            f"The checkpoint trained other parameters than the recipe names ({', '.join(differing[:3])}): "
            "resume with the recipe that it was made with.",
        )
    for name, tensor in state.items():
        parameters[name].copy_(tensor.view_as(parameters[name]))  # a scalar may arrive as a vector of one
