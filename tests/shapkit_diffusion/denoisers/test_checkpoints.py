"""Checkpoints: strangers' folders are read without pickles, checked before memory is taken, and refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapkit_diffusion.denoisers.checkpoints import (
    HUB_FILES,
    SCHEDULE,
    WEIGHTS,
    TensorParts,
    load_module,
    load_schedule,
)
from shapkit_diffusion.denoisers.denoiser import Denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser
from shapkit_diffusion.denoisers.schedules import schedule_of


@pytest.fixture
def model(tiny: Denoiser, tmp_path: Path) -> Path:
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(folder: Path | str) -> str:
    """The error's message: one line that says where."""
    with pytest.raises(ValueError) as caught:
        load_denoiser(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_checkpoint_of_another_architecture_is_refused_by_name(model: Path) -> None:
    path = model / "unet" / WEIGHTS
    weights = load_file(path)
    weights["conv_in.weight"] = torch.zeros(12, 3, 3, 3)
    save_file(weights, path)
    assert "another architecture: conv_in.weight is (12, 3, 3, 3) there and (8, 3, 3, 3) in the model" in refusal(model)
    del weights["conv_in.weight"]
    save_file(weights, path)
    assert "conv_in.weight is absent there" in refusal(model)


def test_a_pickle_is_never_opened(model: Path) -> None:
    touched = model / "touched"

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (touched,)

    (model / "unet" / WEIGHTS).unlink()
    assert refusal(model).endswith("is missing (only safetensors are read)")
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    assert "diffusion_pytorch_model.bin is a pickle, which can run code" in refusal(model)
    (model / "unet" / WEIGHTS).write_bytes(pickle.dumps(Harm()))  # under another name
    assert "does not load" in refusal(model)
    assert not touched.exists()


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_a_truncated_file_is_refused(model: Path, kept: int) -> None:
    path = model / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} does not load" in refusal(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must hold a JSON object, got a list"),
        (b"{}", "describes a None, not a UNet2DModel or UNet2DConditionModel"),
        (b'{"_class_name": "HunyuanDiT2DModel"}', "describes a HunyuanDiT2DModel, not a UNet2DModel"),
        (b" " * 2_000_000, "is no configuration: it has 2,000,000 bytes"),
        (b'{"_class_name": "UNet2DModel", "down_block_types": ["No"], "block_out_channels": [8]}', "can be built"),
        (b'{"_class_name": "UNet2DModel", "block_out_channels": "wide"}', "can be built"),
        (b'{"_class_name": "UNet2DModel", "norm_num_groups": 0}', "can be built"),
    ],
)
def test_configurations_that_describe_no_network_are_refused(model: Path, text: bytes, message: str) -> None:
    (model / "unet" / "config.json").write_bytes(text)
    assert message in refusal(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"block_out_channels": [800_000, 1_600_000]},  # 10^13 bytes for one convolution, if they were asked for
        {"layers_per_block": 10**9},
        {"in_channels": 10**9},
    ],
)
def test_absurd_sizes_are_refused_before_they_are_allocated(model: Path, settings: dict[str, Any]) -> None:
    change(model / "unet" / "config.json", **settings)
    assert "another architecture" in (message := refusal(model)) or "the weights are only" in message


def test_loading_leaves_the_global_generator_alone(model: Path) -> None:
    state = torch.get_rng_state()
    load_denoiser(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_weights_under_their_old_names_load_as_diffusers_loads_them(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in weights.items():
        for new, before in old_names.items():
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = value
    assert sum("proj_attn" in name for name in old) == 8  # 4 attentions, weight and bias
    save_file(old, tmp_path / WEIGHTS)
    module, theirs = load_module(tmp_path, (UNet2DModel,)), UNet2DModel.from_pretrained(tmp_path)
    for name, value in theirs.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_half_precision_files_become_float32(model: Path) -> None:
    path = model / "unet" / WEIGHTS
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    assert {p.dtype for p in load_denoiser(model).parameters()} == {torch.float32}


BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3},
}


@pytest.mark.parametrize(
    "sampler",
    [
        DDPMScheduler,
        DDIMScheduler,
        PNDMScheduler,
        LMSDiscreteScheduler,
        EulerDiscreteScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        HeunDiscreteScheduler,
        KDPM2DiscreteScheduler,
        LCMScheduler,
        TCDScheduler,
        UniPCMultistepScheduler,
        DEISMultistepScheduler,
        SASolverScheduler,
    ],
)
@pytest.mark.parametrize("betas", BETAS)
def test_every_sampler_gives_the_schedule_it_was_written_with(sampler: Any, betas: str, tmp_path: Path) -> None:
    scheduler = sampler(prediction_type="v_prediction", **BETAS[betas])
    scheduler.save_pretrained(tmp_path)
    schedule = load_schedule(tmp_path)
    assert type(schedule) is sampler
    assert {**schedule.config} == {**sampler.from_pretrained(tmp_path).config}
    remaining = schedule_of(schedule.config).alphas_cumprod
    torch.testing.assert_close(remaining, scheduler.alphas_cumprod.double(), rtol=0, atol=0)


def test_a_schedule_that_ends_in_pure_noise_needs_another_prediction(tmp_path: Path) -> None:
    DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").save_pretrained(tmp_path)
    assert float(load_schedule(tmp_path).alphas_cumprod[-1]) == 0
    change(tmp_path / SCHEDULE, prediction_type="epsilon")
    with pytest.raises(ValueError, match="must predict 'v_prediction' or 'sample'"):
        load_schedule(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train_timesteps": 10**12}, "num_train_timesteps must be 1..100000, got 1000000000000"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps must be"),
        ({"beta_schedule": "linear", "beta_end": 7.0}, "betas must lie between 0 and 1"),
        ({"beta_schedule": "linear", "beta_start": float("nan")}, "betas must lie between 0 and 1"),
        ({"trained_betas": 0.5}, "describes no noise schedule"),
        ({"beta_schedule": "steep"}, "describes no noise schedule"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "describes a ScoreSdeVeScheduler"),
        ({"prediction_type": "flow"}, "prediction_type must be one of"),
    ],
)
def test_schedules_that_are_none_are_refused(settings: dict[str, Any], message: str, model: Path) -> None:
    change(model / "scheduler" / SCHEDULE, **settings)
    with pytest.raises(ValueError, match=message):
        load_denoiser(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 0.0}, "shift must be a positive number, got 0.0"),
        ({"shift": "much"}, "describes no noise schedule"),
        ({"invert_sigmas": True}, r"invert_sigmas \(a flow from noise to image\) is not supported"),
    ],
)
def test_flows_that_are_none_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path)
    change(tmp_path / SCHEDULE, **settings)
    with pytest.raises(ValueError, match=message):
        load_schedule(tmp_path)


def test_an_edm_schedule_is_refused_by_name(tmp_path: Path) -> None:
    EDMEulerScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="describes a EDMEulerScheduler, not a DDPMScheduler or"):
        load_schedule(tmp_path)


def test_a_file_of_weights_stands_for_its_folder(model: Path, tmp_path: Path) -> None:
    x, timesteps = torch.zeros(1, 3, 16, 16), torch.tensor([10])
    expected, file = load_denoiser(model)(x, timesteps), model / "unet" / WEIGHTS
    assert torch.equal(load_denoiser(file)(x, timesteps), expected)
    renamed = file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert torch.equal(load_denoiser(model)(x, timesteps), expected)
    shutil.copy(renamed, tmp_path / "sd15.safetensors")
    with pytest.raises(ValueError, match=r"sd15\.safetensors has no config\.json beside it.*from_single_file"):
        load_denoiser(tmp_path / "sd15.safetensors")


def test_missing_files_are_named(model: Path, tmp_path: Path) -> None:
    (model / "scheduler" / SCHEDULE).unlink()
    assert refusal(model).endswith(f"{SCHEDULE} is missing")
    assert "holds no denoiser" in refusal(tmp_path)


def test_a_hub_name_is_looked_up_in_the_cache_without_a_network(
    tiny: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "is no folder here, and the Hugging Face hub does not give it: " in refusal("somebody/faces-16")
    repository = tmp_path / "cache" / "models--somebody--faces-16"
    commit = "0" * 40
    tiny.save(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    x, timesteps = torch.zeros(1, 3, 16, 16), torch.tensor([10])
    assert torch.equal(load_denoiser("somebody/faces-16")(x, timesteps), tiny(x, timesteps))


def test_a_folder_goes_before_a_hub_name(tiny: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(Path("runs") / "faces")
    assert load_denoiser("runs/faces").image_shape == (3, 16, 16)


def test_only_what_is_read_is_fetched() -> None:
    """Against the files of Stable Diffusion 1.5 and of the two CelebA-HQ models."""
    wanted = [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]
    unwanted = [
        "diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.safetensors",
        "v1-5-pruned.ckpt",
        "v1-5-pruned-emaonly.safetensors",
        "run.py",
    ]
    assert list(filter_repo_objects(wanted + unwanted, allow_patterns=list(HUB_FILES))) == wanted


def _written_in_parts(folder: Path) -> Tensor:
    whole = torch.arange(10.0).reshape(5, 2)
    save_file({"a": whole[:3].contiguous(), "count": torch.tensor(7.0)}, folder / "weights-00000-of-00003.safetensors")
    save_file({"a": whole[3:].contiguous()}, folder / "weights-00001-of-00003.safetensors")
    save_file({"a": whole[5:].contiguous()}, folder / "weights-00002-of-00003.safetensors")
    return whole


def test_rows_of_tensors_in_parts(tmp_path: Path) -> None:
    whole = _written_in_parts(tmp_path)
    parts = TensorParts(tmp_path, "weights")
    assert parts.shapes == {"a": (5, 2), "count": ()}
    assert torch.equal(parts.rows("a"), whole) and float(parts.rows("count")) == 7
    for first in range(6):
        for stop in range(first, 6):
            assert torch.equal(parts.rows("a", slice(first, stop)), whole[first:stop])


def test_parts_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    _written_in_parts(tmp_path)
    with pytest.raises(ValueError, match=r"weights-00000-of-00003\.safetensors is damaged: b is missing"):
        TensorParts(tmp_path, "weights").rows("b")
    last = tmp_path / "weights-00002-of-00003.safetensors"
    save_file({"a": torch.zeros(1, 3)}, last)
    with pytest.raises(ValueError, match=r"-00002-of-00003\.safetensors is damaged: its rows of a do not fit"):
        TensorParts(tmp_path, "weights")
    last.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"-00002-of-00003\.safetensors is no readable state dict"):
        TensorParts(tmp_path, "weights")
    last.unlink()
    with pytest.raises(ValueError, match=r"-00002-of-00003\.safetensors is missing"):
        TensorParts(tmp_path, "weights")
    with pytest.raises(ValueError, match=r"average\.safetensors is missing"):
        TensorParts(tmp_path, "average")
