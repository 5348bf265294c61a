"""Models behind an OpenAI-compatible server: requests are built and answers parsed here."""
