"""Whether what a program prints is what the documentation shows: words alike, numbers up to rounding."""

import math
import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def close(shown, printed, relative=0.1, absolute=0.02):
    """Whether two texts differ in nothing but numbers, and in those by little."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(map(float, NUMBER.findall(shown)), map(float, NUMBER.findall(printed)), strict=True)
    return all(math.isclose(a, b, rel_tol=relative, abs_tol=absolute) for a, b in pairs)
