"""The LLM's linear layers in 8 bits, for decoding on a CPU."""

import warnings

from torch import nn

from mint_iqa.errors import MintIQAError


def to_int8(model: nn.Module) -> nn.Module:
    """`model` with every nn.Linear in int8, changed in place: for answers only, it can't be trained or saved.

    Weights have a scale for each output channel; activations get one for each call, over the whole batch, so
    an answer may differ in a word from the one that is written without its neighbours. Embeddings stay as
    they are. LoRA has to be merged before. Raises MintIQAError for a model that is not on the CPU in float32.
    """
    if any(p.device.type != "cpu" or p.dtype.itemsize != 4 for p in model.parameters()):
        raise MintIQAError(
            "bad_argument", "Dynamic int8 is for a CPU and float32: leave out the other options."
        )
    with warnings.catch_warnings():
        # torch.ao is to give way to torchao, whose int8 layers need a C++ compiler to be fast on a CPU.
        warnings.simplefilter("ignore")
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        return quantize_dynamic(model, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
