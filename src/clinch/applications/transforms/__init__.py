"""Families of changes of images with few parameters: rotation, translation, scaling, blur, contrast, brightness, and
stickers of any place, attacked and certified."""

from clinch.applications.transforms.certified import Transformed, under_transforms
from clinch.applications.transforms.families import Transforms

__all__ = ["Transformed", "Transforms", "under_transforms"]
