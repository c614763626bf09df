"""Files from strangers, read with limits and written whole: numbers, images, data sets."""
