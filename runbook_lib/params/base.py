"""The base of all params models."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Values only: unknown keys are errors, types are not guessed, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
