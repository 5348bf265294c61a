"""Models on this machine: processor, chat, sampling and decoding."""
