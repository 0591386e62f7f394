"""The sections of the page, one a module: each is made of a folder's contents, or is None."""
