"""The files of a corpus as documents: one module for each kind of file, and a table of their endings."""
