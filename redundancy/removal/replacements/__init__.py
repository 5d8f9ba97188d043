"""What stands for attention where it is left out: maps fitted in many ways, and the floor below them."""
