"""Methods of the field that leave out whole sublayers and blocks, measured alike; see `methods`."""
