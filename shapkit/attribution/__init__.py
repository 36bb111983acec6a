"""Attribution, the one type of result, and how it is written and drawn."""

from shapkit.attribution.attribution import Attribution, interaction_terms, to_shap

__all__ = ["Attribution", "interaction_terms", "to_shap"]
