"""How near and how often attacks come, beside other libraries."""
