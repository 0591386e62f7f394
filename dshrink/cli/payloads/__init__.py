"""What commands print as JSON, where it is no record of the library already.

A field that is added here, or to a record of the library that a command prints, has a line in
``dshrink/schemas/descriptions.toml``; ``dshrink/schemas`` says which command prints what.
"""
