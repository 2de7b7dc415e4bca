"""What a loaded model does: whether it looks ahead, whether its head stands alone, how rows may be joined."""

import inspect
from typing import Any, Literal

import torch

from trainables.models.experts import EXPERTS
from trainables.models.matrices import coverage_of

ROUGHLY = 0.1
Joining = Literal["positions", "mask"]


@torch.inference_mode()
def separable_head(network: Any) -> bool:
    """Return True if the logits are the output embedding of the last hidden state: some models cap or scale them."""
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    ids = _four_tokens(network)
    try:
        apart = head(network.base_model(ids).last_hidden_state)
    except RuntimeError:  # the last hidden state is of another dtype than the head
        return False
    return torch.allclose(apart.float(), network(ids).logits.float())


@torch.inference_mode()
def looks_back_only(network: Any) -> bool:
    """Return True if a token's logits do not depend on later tokens: an encoder would learn to copy.

    Earlier tokens of 200 random encoders moved by 6e-4 to 5e-3 of what the last one did, those of causal models by
    3e-7 at most (an expert's product rounds otherwise for fewer tokens).
    """
    ids = _four_tokens(network)
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    change = (network(ids).logits - network(other).logits).abs()
    has_experts = any((item.what, item.why) == EXPERTS for item in coverage_of(network).left_out)
    most = rounding(network, 1e-5) if has_experts else 1e-5
    return bool(change[:, :-1].max() <= most * change[:, -1].max())


@torch.inference_mode()
def joining(network: Any) -> Joining | None:
    """Return what gives rows end to end the outputs that they have apart; None if nothing does.

    Transformers keeps rows apart whose positions begin anew, in most models; in some, only a mask does.
    """
    if "position_ids" not in inspect.signature(network.forward).parameters:
        return None
    ids = _four_tokens(network)
    both, positions = torch.cat([ids, ids.flip(1)], 1), torch.arange(4, device=network.device).repeat(1, 2)
    rows = torch.arange(8, device=network.device) // 4
    mask = (rows[:, None] == rows).tril()[None, None]
    alone, mixed = network(ids.flip(1)).logits, network(both).logits[:, 4:]
    ways: dict[Joining, dict[str, Any]] = {"positions": {}, "mask": {"attention_mask": mask}}
    for way, inputs in ways.items():
        try:
            apart = network(both, position_ids=positions, **inputs).logits[:, 4:]
        except (RuntimeError, ValueError, TypeError, IndexError):  # it takes no such mask
            continue
        if (apart - alone).abs().max() <= rounding(network, 1e-3) * (mixed - alone).abs().max():
            return way
    return None


def rounding(network: Any, in_float32: float, in_bfloat16: float = ROUGHLY) -> float:
    """Return what of a difference may be rounding, in the dtype that a model computes in."""
    return in_float32 if network.dtype == torch.float32 else in_bfloat16


def _four_tokens(network: Any) -> Any:
    return torch.arange(4, device=network.device).view(1, 4) % network.get_input_embeddings().num_embeddings
