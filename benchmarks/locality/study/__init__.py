"""The reference study: local noise without losing realism."""
