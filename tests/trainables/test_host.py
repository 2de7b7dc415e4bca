"""The thread by which a host ends once its search is gone."""

import os

import pytest
import ray

from trainables import host


def test_a_host_outlives_what_ray_cannot_tell_and_ends_when_the_search_is_gone(monkeypatch):
    answers = iter([object(), ray.exceptions.RpcError("no answer"), RuntimeError("not now"), object(), ValueError()])

    def get_actor(name):
        assert name == "lease"
        if isinstance(answer := next(answers), Exception):
            raise answer

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(host, "LEASE_SECONDS", 0)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        host._end_with("lease")
    assert next(answers, None) is None
