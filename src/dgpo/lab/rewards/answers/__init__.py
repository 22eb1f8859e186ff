"""How an answer is read and compared with the gold answer, and the script that does so in a process of its own.

Loaded by the verifier's processes without the rest of the package: these modules import the standard library, and sympy
and math-verify where they are used; they import each other by relative names.
"""
