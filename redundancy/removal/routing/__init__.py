"""Which operations go first: known needs, routers that predict them, routers trained through the loss."""
