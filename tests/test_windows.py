"""A sliding window that moves past the steered slot is announced, and only then."""

import warnings

import pytest
import random_models

import kvsteer_lab as kv


def test_a_window_that_is_too_short_is_announced(load_random):
    model = load_random("mistral, window 8")
    window = model.shape.windows[0]
    steering = kv.CacheSteering(random_models.vectors_for(model), 0.5, 2)
    with pytest.warns(UserWarning, match=r"leaves the sliding window \(layers 1, 2, 3;"):
        kv.generate(model, "hello", steering, generation={"max_new_tokens": window})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kv.generate(model, "hello", steering, generation={"max_new_tokens": window - 1})
        kv.generate(model, "hello", generation={"max_new_tokens": window})
