"""Training and fine-tuning of denoisers and autoencoders, resumable to the same numbers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
