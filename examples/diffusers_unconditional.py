"""The loop of diffusers' `train_unconditional.py` with the dummy-player penalty: the two lines marked `# shapkit`.

Accelerator, DataLoader, UNet2DModel, DDPMScheduler, EMAModel and learning-rate schedule are as they are there, and so
is the line that draws every image's own timestep: the penalty compares an image with itself alone.

    python examples/diffusers_unconditional.py      (a few minutes on one CPU core; a GPU is used if there is one)
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from faces16 import CONCEPTS, Trained, load_faces, print_locality
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from shapkit.differentiable import DummyPlayerPenalty, Regions, star

penalty = DummyPlayerPenalty(graph=star())  # concepts may look at the rest, the rest at no concept


def main(steps: int = 500, weight: float = 10.0, cpu: bool = False) -> Trained:
    """Loss and penalty of every step, and the locality of every concept in the end."""
    set_seed(0)
    accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
    images, labels = load_faces("cpu")
    train_dataloader = DataLoader(TensorDataset(images), batch_size=16, shuffle=True, drop_last=True)
    model = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    ema_model = EMAModel(model.parameters(), decay=0.99)
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=20, num_training_steps=steps)
    model, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, lr_scheduler
    )
    ema_model.to(accelerator.device)

    global_step, history = 0, []
    regions = Regions.from_labels(labels, CONCEPTS, dilation=1)  # shapkit
    while global_step < steps:
        for (clean_images,) in train_dataloader:
            noise = torch.randn_like(clean_images)
            bsz = clean_images.shape[0]
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (bsz,), device=clean_images.device)
            noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
            with accelerator.accumulate(model):
                model_output = model(noisy_images, timesteps).sample
                loss = F.mse_loss(model_output.float(), noise.float())
                loss += weight * (  # shapkit
                    leak := penalty(
                        lambda x, t=timesteps: model(x, t).sample,
                        noisy_images,
                        regions,
                        output=model_output,
                        step=global_step,
                    )
                )
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema_model.step(model.parameters())
                global_step += 1
            history.append((loss.item() - weight * leak.item(), leak.item()))
            if global_step % 100 == 0:
                accelerator.print("step {}: loss {:.4f}, penalty {:.5f}".format(global_step, *history[-1]), flush=True)
            if global_step == steps:
                break

    unet = accelerator.unwrap_model(model)
    ema_model.copy_to(unet.parameters())
    scheduler = DDIMScheduler.from_config(noise_scheduler.config)
    scheduler.set_timesteps(25)

    def generate(x: Tensor) -> Tensor:
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        return x

    return history, print_locality(generate, labels.to(accelerator.device))


if __name__ == "__main__":
    for weight in (0.0, 10.0):
        print(f"--- weight of the penalty: {weight:g}", flush=True)
        main(weight=weight)
