"""The top floor: what finished runs say to the claims of the examined preprint, arXiv:2602.12204."""
