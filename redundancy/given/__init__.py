"""What Python hands over where the command line can only name it: model objects, texts, token ids."""
