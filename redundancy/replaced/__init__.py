"""A model whose attention is replaced where little is lost, as a model that runs, is saved and is scored."""
