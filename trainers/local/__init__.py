"""The local trainer: one process, plain torch and Hugging Face models."""
