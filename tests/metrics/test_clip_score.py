"""Text scores: features by hand, and a small CLIP of random weights from a folder."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.errors import InputError, WeightsError
from pellucid.metrics.clip_score import CLIPScorer, clip_text_scores, frame_similarity, text_score


class Brightness:
    """A picture's feature is its mean colour; a text's is told."""

    label = "told"

    def images(self, frames):
        return frames.mean((2, 3))

    def texts(self, prompts):
        return torch.tensor([[1.0, 0.0, 0.0]] * len(prompts))


def test_the_cosine_is_clamped_and_averaged():
    images = torch.tensor([[1.0, 0.0], [3.0, 3.0], [-1.0, 0.0]])
    text = torch.tensor([2.0, 0.0])
    assert text_score(images, text) == pytest.approx(100 * (1 + 2**-0.5 + 0) / 3)
    assert text_score(images, torch.stack([text, text, -text])) == pytest.approx(100 * (2 + 2**-0.5) / 3)
    with pytest.raises(InputError, match="features"):
        text_score(images, torch.zeros(3))
    with pytest.raises(InputError, match="features"):
        text_score(images[:0], text)


def test_a_clip_is_scored_over_three_backgrounds():
    clip = torch.zeros(2, 4, 8, 8)
    clip[:, 0, :4], clip[:, 3, :4] = 1.0, 1.0  # red above, nothing below
    found = clip_text_scores(clip, "red", Brightness())
    grey, white = 127 / 510, 0.5
    assert found["black"] == pytest.approx(100.0)
    assert found["grey"] == pytest.approx(100 * (0.5 + grey) / ((0.5 + grey) ** 2 + 2 * grey**2) ** 0.5, abs=1e-3)
    assert found["white"] == pytest.approx(100 / (1 + 2 * white**2) ** 0.5, abs=1e-3)
    assert frame_similarity(clip, clip[0], Brightness()) == pytest.approx(100.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip") / "tiny-clip"
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": 8, "max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**shared, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(path)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3, "c</w>": 4, "a": 5, "b": 6, "c": 7}
    transformers.CLIPTokenizer(vocab=words, merges=[]).save_pretrained(path)
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


def test_a_saved_clip_sees_frames_and_reads_prompts(folder, caplog):
    scorer = CLIPScorer(folder)
    frames = torch.rand(3, 3, 24, 32)
    images, texts = scorer.images(frames), scorer.texts(["a b", "c"])
    assert (tuple(images.shape), tuple(texts.shape)) == ((3, 12), (2, 12))
    # An even frame stays even through resizing, cropping and normalising: the tower sees zeros.
    grey = torch.full((1, 3, 40, 30), 0.5)
    with torch.no_grad():
        expected = scorer._model.get_image_features(pixel_values=torch.full((1, 3, 16, 16), 128 / 255 * 2 - 1))
    assert torch.allclose(scorer.images(grey), getattr(expected, "pooler_output", expected), atol=1e-5)
    assert torch.allclose(scorer.texts(["c"])[0], texts[1], atol=1e-5)  # padding changes nothing
    assert scorer.label == "tiny-clip"
    assert scorer.unknown(["a zebra"]) == []  # it spells words in pieces
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        scorer.texts(["a b c a b c"])
    assert "1 of 1 prompts are longer than CLIP's 6 tokens" in caplog.text
    assert 0.0 <= clip_text_scores(torch.rand(2, 4, 20, 20), "a b", scorer)["grey"] <= 100.0


def test_a_folder_that_is_no_clip_is_refused(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"no config\.json"):
        CLIPScorer(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError) as caught:
        CLIPScorer(tmp_path)
    assert "\n" not in caught.value.message
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 tensors, first visual_projection\.weight"):
        CLIPScorer(tmp_path)
