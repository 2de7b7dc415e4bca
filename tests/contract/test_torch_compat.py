"""Storages are told apart by a name that PyTorch does not promise."""

import torch

from trainables.engine.torch_compat import storage_id


def test_views_share_a_storage_and_other_tensors_do_not_also_where_there_is_no_memory():
    for device in ("cpu", "meta"):
        one, other = torch.empty(4, device=device), torch.empty(4, device=device)
        assert storage_id(one.untyped_storage()) == storage_id(one[1:].untyped_storage())
        assert storage_id(one.untyped_storage()) != storage_id(other.untyped_storage())
