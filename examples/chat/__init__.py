"""A chat server with its page: ``python -m examples.chat``."""
