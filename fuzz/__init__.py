"""
Any bytes, by the million: what comes in on the ports that everybody can reach, chosen by a coverage-guided fuzzer.

`./dev fuzz dhcp|tftp` starts `python -m fuzz`, which watches one more process (`fuzz.engine`), where atheris makes the inputs. A
target (`fuzz.dhcp`, `fuzz.tftp`) plays one input to the product's own decoders and decisions, and raises if an invariant does
not hold. Targets know nothing of atheris: the unit tests play the inputs of `tests/unit/fuzz/*.txt` to the same functions, and a
run starts from these. No part of the product.
"""
