"""A small model, fitted, for the tests of what is done with the fit."""

import pytest

from redundancy.model.decoder import Decoder
from redundancy.passes import collect, solve
from redundancy.removal.need import measure_needs
from tests.conftest import TINY, build
from tests.planted import task


@pytest.fixture(scope="session")
def fitted_gpt2(tokenizer):
    decoder, t = Decoder(build(TINY["gpt2"]), "gpt2"), task(tokenizer)
    moments = collect(decoder, t, None, "model", controls=True)
    fitted = solve(decoder, t, moments, "model")
    return decoder, t, moments, fitted, measure_needs(decoder, t, fitted, None)
