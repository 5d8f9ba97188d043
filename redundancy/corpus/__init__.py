"""How documents are made of files, tables and data sets."""
