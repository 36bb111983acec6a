"""Other libraries on the same tasks: whether their numbers and these agree, and how long both take."""
