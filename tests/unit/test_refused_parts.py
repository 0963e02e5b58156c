"""What of a request a refusal refuses: told by its code and words, in every wording that is known."""

from __future__ import annotations

import pytest

from mcp_seedream.upstream.error_mapping import refused_part
from mcp_seedream.upstream.types import Failure
from tests.support.production import MODEL_WORDS, SIZE_WORDS, Words

MODEL = "doubao-seedream-5-0-260128"


def said(words: Words) -> Failure:
    return Failure(words[0], words[1].format(model=MODEL, size="1K"))


@pytest.mark.parametrize(
    "words",
    [
        *MODEL_WORDS,
        ("bad_request", "Model is invalid"),
        ("InvalidEndpointOrModel.ModelIDAccessDisabled", "The request failed."),
        ("bad_request", "The specified model ({model}) was not found."),
        ("bad_request", "The model {model} you requested does not exist"),
        ("bad_request", "The model `{model}` doesn't exist or you don't have access to it."),
        ("bad_request", "unsupported model: {model}"),
        ("api_error", "Model {model} was discontinued on 2026-08-05"),
        ("bad_request", 'The model "{model}" does not exist. Request id: "0217abc"'),
        ("bad_request", "`{model}`: the model was removed, use `doubao-seedream-4-5-251128`"),
        ("bad_request", "Model Not Exist"),
        ("bad_request", "The requested model is unavailable"),
        ("bad_request", "{model} is not a valid model"),
    ],
)
def test_the_model(words: Words) -> None:
    """It is gone, or not this account's."""
    assert refused_part(said(words)) == "model"


@pytest.mark.parametrize(
    "words",
    [
        *SIZE_WORDS,
        ("bad_request", "Size must be one of 1k, 2k"),
        ("bad_request", "size: 1K is not supported by this model"),
        ("bad_request", "The model {model} does not support size 1K"),
        ("bad_request", "image size is invalid: width and height must be multiples of 16"),
        ("InvalidParameter", "Invalid value for `size`: 1K"),
        ("bad_request", "`size` must be one of `2K`, `3K`, `4K`"),
        ("bad_request", '"size" must be one of "2K", "3K"'),
        ("bad_request", "{size} is not a valid size"),
    ],
)
def test_the_size(words: Words) -> None:
    """The model does not take it."""
    assert refused_part(said(words)) == "size"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("bad_request", "The request failed because the prompt may contain sensitive information."),
        ("InputTextSensitiveContentDetected", "The input text 'a model that is not available' may be sensitive."),
        ("bad_request", 'The prompt "the size must be 1K" may contain sensitive information.'),
        ("bad_request", "Your prompt says that the model is invalid, which may be against our policy."),
        ("OutputImageSensitiveContentDetected", "The output of the model is not available: it may be sensitive."),
        ("content_policy", "What the model drew was removed: it may violate copyright."),
        ("bad_request", "Your text was rejected: “every model has been retired”"),
        ("api_error", "fetch failed"),
        ("api_error", "fetch failed: https://example.com/model/fox.png was not found"),
        ("bad_request", "The image https://example.com/a-model.jpg is invalid"),
        ("bad_request", "image size must be less than 10MB"),
        ("bad_request", "image size must be less than 10 MB"),
        ("bad_request", "The size of the input image must be at most 36 megapixels"),
        ("bad_request", "image size must be at most 36 megapixels"),
        ("bad_request", "prompt size must be less than 4000 characters"),
        ("bad_request", "The batch size must be 1"),
        ("bad_request", "For model {model} the parameter seed is not supported"),
        ("InvalidParameter", "The parameter `seed` specified in the request is not valid for model {model}."),
        ("bad_request", "model {model}: argument stream is invalid"),
        ("api_error", "The model is not available at the moment, try again later"),
        ("api_error", "The model is overloaded and not available"),
        ("api_error", "model output file does not exist"),
        ("api_error", "The result of the model was not found"),
        ("api_error", "Failed to upload: the file of model {model} does not exist"),
        ("api_error", "model returned a response that is invalid"),
        ("api_error", "the size of the generated image is invalid"),
        ("api_error", 'fetch failed: "https://example.com/model/fox.png" was not found'),
        ("bad_request", "The image you gave to the model is invalid"),
        ("bad_request", "model {model}: guidance_scale is not supported"),
        ("used_up", "model is invalid."),
        ("too_many_requests", "The requested model is not available"),
        ("token_mismatched", "The model or endpoint does not exist or you do not have access to it"),
    ],
)
def test_something_else(code: str, message: str) -> None:
    """Content, input pictures, other parameters, the account, trouble that passes: the words alone decide nothing."""
    assert refused_part(said((code, message))) is None
