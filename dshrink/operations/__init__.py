"""The library behind the commands: one module a verb, typed arguments in, a result out.

Nothing is printed.
"""
