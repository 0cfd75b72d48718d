"""Pages, chapters and figures: the only room that knows HTML."""
