"""The network: the published layout and golden pair, short ways against long ones, what each configuration changes."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.losses import OFFICIAL_WEIGHTS, SemanticVAELoss
from pellucid.semantic_vae.model import (
    PRESETS,
    TABLE_1,
    Posterior,
    SemanticVAE,
    SemanticVAEConfig,
    open_gates,
    planes_of,
    table_1_config,
)

from .seeded_weights import seeded_noise, seeded_weights

REFERENCE = Path(__file__).parent / "reference"
SMALL = SemanticVAEConfig(
    classes=6,
    size=32,
    encoder_side=16,
    encoder_widths=(12, 10),
    latent=64,
    lstm_layers=2,
    lstm_hidden=7,
    ff_width=9,
    channels=(8, 8, 4),
    groups=4,
)


def network(config: SemanticVAEConfig = SMALL, seed: int = 0) -> SemanticVAE:
    """A network with weights that leave nothing at zero, in eval mode."""
    torch.manual_seed(seed)
    model = SemanticVAE(config).eval()
    for block in model.decs_conv.decs:
        torch.nn.init.normal_(block.out_layers[3].weight, std=0.1)  # type: ignore[index,union-attr,arg-type]
    return model


def masks(config: SemanticVAEConfig = SMALL, count: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, config.classes, (count, 8, 8), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(config.size // 8, 1).repeat_interleave(config.size // 8, 2)


def test_the_layout_is_the_published_one() -> None:
    published = json.loads((REFERENCE / "semantic_vae.json").read_text())
    with torch.device("meta"):
        model = SemanticVAE(PRESETS["official"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published


@pytest.mark.parametrize(("name", "count"), [("official", 25_230_386), ("paper", 24_705_074), ("tiny", 2_987_930)])
def test_presets_have_the_counted_size(name: str, count: int) -> None:
    with torch.device("meta"):
        model = SemanticVAE(PRESETS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_official_weights_give_the_golden_pair() -> None:
    golden = np.load(REFERENCE / "semantic_vae_golden_0.npz")
    model = SemanticVAE(replace(PRESETS["official"], bg_mode="official", init_state="noise")).eval()
    model.load_state_dict(seeded_weights({key: value.shape for key, value in model.state_dict().items()}))
    labels, eps = torch.from_numpy(golden["mask"]), seeded_noise("vae0:eps", (2, 18, 256))
    state = (seeded_noise("vae0:h0", (6, 2, 256)), seeded_noise("vae0:c0", (6, 2, 256)))

    def close(found: Tensor, name: str, tolerance: float) -> None:
        np.testing.assert_allclose(found.numpy(), golden[name], rtol=0, atol=tolerance, err_msg=name)

    with torch.no_grad():
        posterior = model.encode(labels)
        z = posterior.mu + torch.exp(0.5 * posterior.logvar) * eps
        logits = model.decode(z, state)
        zeros = model.decode(z, (torch.zeros(6, 2, 256), torch.zeros(6, 2, 256)))
        loss = SemanticVAELoss(torch.tensor(OFFICIAL_WEIGHTS))(logits, labels, posterior)
    close(posterior.mu, "mu", 1e-5)
    close(posterior.logvar, "logvar", 1e-5)
    close(z, "z", 1e-5)
    # What the file calls dec_in was kept from the pass with the zero state.
    close(model.between_parts(z, None).detach(), "dec_in", 1e-5)
    close(logits[:, 1:, ::16, ::16], "logits_slice", 1e-4)
    close(zeros[:, 1:, ::16, ::16], "logits_slice_zero_state", 1e-4)
    close(logits[:, 1:].mean(dim=(2, 3)), "logits_mean", 1e-4)
    assert (logits[:, 0].numpy() == golden["bg_channel"].reshape(2, 256, 256)).mean() > 0.999
    assert (logits.argmax(1).numpy() == golden["argmax19"]).mean() > 0.999
    assert float(loss["kl"]) == pytest.approx(float(golden["kl"]), rel=1e-4)
    assert float(loss["ce"]) == pytest.approx(float(golden["ce"]), rel=1e-4)
    assert float(loss["loss"]) == pytest.approx(float(golden["loss_total"]), rel=1e-4)


@pytest.mark.parametrize("background", [0, 3, None])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_encoding_labels_is_encoding_their_planes(background: int | None, dtype: torch.dtype) -> None:
    model = network(replace(SMALL, background=background))
    labels = masks()
    labels[1] = 2  # a mask of one class
    labels[2, :4] = 255  # belongs to no part
    labels = labels.to(dtype)
    if dtype == torch.int64:
        labels[2, 4:8], labels[2, 8:12] = -1, 300
    with torch.no_grad():
        short = model.encode(labels)
        long = model.encode_planes(planes_of(labels, model.config))
    trained = model.encode(labels)  # where gradients are asked for, the planes are multiplied
    for found, also, wanted in zip(short, trained, long, strict=True):
        assert found.shape == (3, len(model.config.parts), 64)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(also, wanted, rtol=0, atol=1e-6)


def test_the_encoder_takes_even_pixels() -> None:
    model = network()
    labels = masks()
    changed = labels.clone()
    changed[:, 1::2] = 5
    with torch.no_grad():
        assert torch.equal(model.encode(changed).mu, model.encode(labels).mu)
        changed[:, 2] = 5
        assert not torch.equal(model.encode(changed).mu, model.encode(labels).mu)


@pytest.mark.parametrize("side", [20, 48, 50])
def test_masks_of_other_sizes_shrink_by_torchs_rule(side: int) -> None:
    model = network()
    labels = torch.randint(0, 6, (2, side, side), dtype=torch.uint8)
    wanted = torch.nn.functional.interpolate(planes_of(labels, SMALL), (16, 16), mode="nearest")
    with torch.no_grad():
        torch.testing.assert_close(model.encode(labels).mu, model.encode_planes(wanted).mu, rtol=0, atol=1e-6)


def test_an_absent_part_has_the_code_of_the_empty_plane() -> None:
    model = network()
    labels = masks()
    labels[labels == 4] = 1
    with torch.no_grad():
        posterior, (mu, logvar) = model.encode(labels), model.absent_code()
    torch.testing.assert_close(posterior.mu[:, 3], mu.expand(3, -1))
    torch.testing.assert_close(posterior.logvar[:, 3], logvar.expand(3, -1))


def plainly(model: SemanticVAE, x: Tensor) -> Tensor:
    """The decoder by the layer table: enlarge, then convolve, on both ways."""
    x = model.decs_conv.in_conv(x)
    for block in model.decs_conv.decs:
        double = torch.nn.Upsample(scale_factor=2, mode="nearest") if block.enlarges else torch.nn.Identity()
        start = block.in_layers  # type: ignore[union-attr]
        h = start[2](double(start[1](start[0](x))))  # type: ignore[index,operator]
        x = block.skip_connection(double(x)) + block.out_layers(h)  # type: ignore[operator]
    x = model.decs_conv.out_conv(x)
    return x if model.config.logit_stride == 1 else torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_the_decoder_is_its_layer_table(stride: int, grad: bool) -> None:
    model = network(replace(SMALL, logit_stride=stride))
    z = torch.randn(2, 5, 64)
    wanted = plainly(model, model.between_parts(z, None).unflatten(2, (8, 8)))
    with torch.set_grad_enabled(grad):
        found = model.decode(z)
    assert found.shape == (2, 6, 32, 32)
    torch.testing.assert_close(found[:, 1:], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("background", [0, 2, None])
def test_the_background_gets_its_own_plane(background: int | None) -> None:
    z = torch.randn(2, 5 if background is not None else 6, 64)
    config = replace(SMALL, background=background)
    parts = list(config.parts)
    with torch.no_grad():
        zero, official, learned = (network(replace(config, bg_mode=mode)) for mode in ("zero", "official", "learned"))
        logits = zero.decode(z)
        assert logits.shape == official.decode(z).shape == learned.decode(z).shape == (2, 6, 32, 32)
        assert learned.decs_conv.out_conv.out_channels == 6
        if background is None:
            assert torch.equal(logits, official.decode(z))
            return
        assert not logits[:, background].any()
        stepped = official.decode(z)
        assert torch.equal(stepped[:, parts], logits[:, parts])
        assert torch.equal(stepped[:, background], (stepped[:, parts].sum(1) <= 0).float())
        assert 0 < stepped[:, background].mean() < 1


def test_the_first_state_matters_in_noise_mode_only() -> None:
    z = torch.randn(2, 5, 64)
    for mode, differs in (("zeros", False), ("noise", True)):
        model = network(replace(SMALL, init_state=mode))  # type: ignore[arg-type]
        with torch.no_grad():
            one, two, again = (model.decode(z, torch.Generator().manual_seed(seed)) for seed in (1, 2, 1))
            zeros = model.decode(z, (torch.zeros(4, 2, 7), torch.zeros(4, 2, 7)))
        assert torch.equal(one, again)
        assert torch.equal(one, two) != differs
        assert torch.equal(one, zeros) != differs


def test_training_samples_and_evaluation_takes_the_mean() -> None:
    model, labels = network(), masks()
    with torch.no_grad():
        out = model(labels)
        assert torch.equal(out.z, out.posterior.mu)
        assert torch.equal(model(labels).logits, out.logits)
        model.train()
        one, two, again = (model(labels, torch.Generator().manual_seed(seed)) for seed in (1, 2, 1))
    assert torch.equal(one.logits, again.logits)
    assert not torch.equal(one.z, two.z)
    noise = torch.randn(out.z.shape, generator=torch.Generator().manual_seed(1))
    mu, logvar = one.posterior
    torch.testing.assert_close(one.z, mu + torch.exp(logvar / 2) * noise)


@pytest.mark.parametrize("row", TABLE_1)
def test_every_row_of_table_1_trains_all_its_weights(row: str) -> None:
    config, weighted = table_1_config(SMALL, row)
    assert weighted == row.endswith("wce")
    model, labels = network(config).train(), masks()
    out = model(labels)
    SemanticVAELoss()(out.logits, labels, out.posterior)["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert (model.lstm is None) == row.startswith("nolstm")
    if not config.bidirectional:
        assert model.resh_lin is None  # the identity


def test_rows_without_bidirectional_lstm_are_smaller_by_skip_and_half_the_feed_forward() -> None:
    with torch.device("meta"):
        full, lone = (SemanticVAE(table_1_config(PRESETS["official"], row)[0]) for row in ("bilstm3_ce", "lstm3_ce"))
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in (("full", full), ("lone", lone))}
    lstm = [sum(p.numel() for p in model.lstm.parameters()) for model in (full, lone)]  # type: ignore[union-attr]
    assert size["full"] - size["lone"] - (lstm[0] - lstm[1]) == 262_144 + 131_328


@pytest.mark.parametrize(("classes", "background"), [(6, 0), (30, 4), (2, None)])
def test_any_class_set_trains_a_step(classes: int, background: int | None) -> None:
    config = replace(SMALL, classes=classes, background=background)
    model, labels = network(config).train(), masks(config)
    out = model(labels)
    assert out.logits.shape == (3, classes, 32, 32)
    before = model.encs.mu.weight.detach().clone()
    SemanticVAELoss()(out.logits, labels, out.posterior)["loss"].backward()
    torch.optim.Adam(model.parameters()).step()
    assert not torch.equal(model.encs.mu.weight, before)


def test_half_precision_leaves_the_posterior_in_full() -> None:
    model, labels = network().train(), masks()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(labels, torch.Generator().manual_seed(0))
        loss = SemanticVAELoss()(out.logits, labels, out.posterior)["loss"]
    loss.backward()
    wanted = model(labels, torch.Generator().manual_seed(0))
    assert out.logits.dtype == torch.bfloat16
    assert out.posterior.mu.dtype == out.posterior.logvar.dtype == loss.dtype == torch.float32
    assert float((out.logits - wanted.logits).detach().abs().mean() / wanted.logits.detach().abs().mean()) < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_weights_survive_a_round_trip() -> None:
    model, other = network(), network(seed=5)
    other.load_state_dict({key: value.contiguous() for key, value in model.state_dict().items()})
    with torch.no_grad():
        labels = masks()
        assert torch.equal(model(labels).logits, other(labels).logits)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"latent": 60}, "square"),
        ({"size": 64}, "model.size must be 32, found 64"),
        ({"background": 6}, "model.background"),
        ({"groups": 3}, "groups = 3"),
        ({"bg_mode": "one"}, "bg_mode 'one'"),
        ({"init_state": "ones"}, "init_state 'ones'"),
        ({"logit_stride": 4}, "logit_stride"),
        ({"classes": 300}, "255"),
        ({"classes": 1}, "no part"),
        ({"encoder_widths": ()}, "encoder_widths"),
        ({"lstm_layers": -1}, "lstm_layers"),
    ],
)
def test_what_makes_no_network_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_wrong_shapes_are_named() -> None:
    model = network()
    with pytest.raises(InputError, match=r"expected \(B, 5, 64\), found \(1, 6, 64\)"):
        model.decode(torch.zeros(1, 6, 64))
    with pytest.raises(InputError, match=r"expected \(B, 5, H, W\)"):
        model.encode_planes(torch.zeros(1, 6, 16, 16))
    with pytest.raises(InputError, match="whole numbers"):
        model.encode(torch.zeros(1, 16, 16))
    with pytest.raises(ConfigError, match="bilstm3_wce"):
        table_1_config(SMALL, "row 6")


def test_a_posterior_samples_where_it_lies() -> None:
    posterior = Posterior(torch.zeros(4000, 1, 1) + 3, torch.zeros(4000, 1, 1) + 2 * np.log(0.5))
    drawn = posterior.sample(torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(3, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.03)


def test_presets_are_distinct() -> None:
    assert all(one != two for one, two in itertools.combinations(PRESETS.values(), 2))


def test_open_gates_lets_codes_through_from_the_start() -> None:
    """What the LSTM passes on of a change in a code; torch's own initialisation loses nearly all of it."""
    passed = {}
    for opened in (False, True):
        torch.manual_seed(0)
        model = SemanticVAE(SMALL).eval()
        if opened:
            open_gates(model)
        z = torch.randn(2, len(SMALL.parts), SMALL.latent)
        there = model.between_parts(z, None) - model.between_parts(z + 0.5 * torch.randn_like(z), None)
        passed[opened] = float(there.detach().std())
        labels = torch.randint(0, SMALL.classes, (2, SMALL.size, SMALL.size), dtype=torch.uint8)
        narrow = float(model.encode(labels).logvar.detach().mean())
        assert (narrow < -2.5) == opened
    assert passed[True] > 3 * passed[False]


def test_open_gates_needs_no_lstm() -> None:
    open_gates(SemanticVAE(replace(SMALL, lstm_layers=0)))
