"""What the values of a preset may be; `choose` checks them, and says which value may not be what."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A number of things that there must be."""

Natural = Annotated[int, Field(ge=0)]
"""A number of things that there need not be."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A weight of either sign."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A weight; zero leaves its term out."""

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A learning rate, a step or a bound, which would do nothing at zero."""

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""A share that leaves something over."""

UpToAll = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A share of something, all of it included."""

Widths = Annotated[tuple[Count, ...], Field(min_length=2)]
"""Channels from full resolution down: of an encoder there must be a step down."""
