"""Small models, data and processes."""

from tests.small_models import faces, none_left, one_thread, processes, tiny, write_text_encoder

__all__ = ["faces", "none_left", "one_thread", "processes", "tiny", "write_text_encoder"]
