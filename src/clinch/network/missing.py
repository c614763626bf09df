"""Everything that cannot be read of a model, told at once."""

from __future__ import annotations

from clinch.errors import UnsupportedOperator

#: of a list, shown at most
_SHOWN = 8


class Missing:
    """Collects refusals while reading goes on."""

    def __init__(self) -> None:
        self.errors: list[UnsupportedOperator] = []

    def add(self, error: UnsupportedOperator) -> None:
        """One more."""
        self.errors.append(error)

    def raise_all(self, where: str) -> None:
        """One error that names all of them, in one line.

        Raises:
            UnsupportedOperator: there are some.
        """
        if not self.errors:
            return
        texts = list(dict.fromkeys(str(error).replace("\n", " ") for error in self.errors))
        if len(texts) == 1:
            error = self.errors[0]
        else:
            shown = " | ".join(text.split(". ")[0].rstrip(".") for text in texts[:_SHOWN])
            more = f" | and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
            error = UnsupportedOperator(
                f"{len(texts)} layers of {where} cannot be read: {shown}{more}. {texts[0].split('. ')[-1]}"
            )
        error.missing = tuple(texts)
        raise error from (None if len(texts) == 1 else self.errors[0])
