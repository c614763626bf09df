"""Parts that papers share: claims with verdicts, tables, figures, published networks."""
