"""Diffusion models whose noise regions own their image regions: open or train them, measure them, edit with them.

>>> import shapkit_diffusion as sd
>>> model = sd.shipped_model("local")
>>> noise = sd.draw_noise(model, 2, seed=0)
>>> sd.generate(model, noise, steps=5).shape
torch.Size([2, 3, 32, 32])

Names are imported when they are first used.
"""

import lazy_loader

from shapkit._moved import MovedModules

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_MOVED = {
    "autoencoder_training": "training.autoencoder",
    "autoencoders": "denoisers.autoencoders",
    "checkpoints": "denoisers.checkpoints",
    "compared": ".benchmarks.published_tables.systems",
    "composed": "denoisers.composed",
    "domains": "evaluation.domains",
    "edit_report": "pictures.edits",
    "edits": "noise.edits",
    "influence": "noise.influence",
    "influence_report": "pictures.influence",
    "jackknife": "noise.jackknife",
    "latents": "denoisers.latents",
    "paired_noise": "training.paired_noise",
    "pixels": "data.pixels",
    "prompts": "denoisers.prompts",
    "report": "pictures.comparison",
    "row_files": "training.row_files",
    "sampling": "noise.sampling",
    "schedules": "denoisers.schedules",
    "stop_signals": "training.stop_signals",
    "tables": ".benchmarks.published_tables",
    "training_config": "training.config",
    "training_data": "training.batches",
    "training_log": "training.log",
    "training_state": "training.state",
}
MovedModules(__name__, _MOVED).install()
