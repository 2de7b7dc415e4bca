"""PyTorch still has the names that it does not promise, and means the same by them."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.engine.torch_compat import is_to_another_dtype, storage_id


def test_views_share_a_storage_and_other_tensors_do_not_also_where_there_is_no_memory():
    for device in ("cpu", "meta"):
        one, other = torch.empty(4, device=device), torch.empty(4, device=device)
        assert storage_id(one.untyped_storage()) == storage_id(one[1:].untyped_storage())
        assert storage_id(one.untyped_storage()) != storage_id(other.untyped_storage())


def test_a_tensor_of_another_dtype_is_made_by_one_operator_and_by_no_other():
    operators = []

    class Listening(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operators.append(is_to_another_dtype(func))
            return func(*args, **(kwargs or {}))

    with Listening():
        torch.ones(2).to(torch.bfloat16)
        torch.ones(2).neg()
    assert operators == [False, True, False, False]
