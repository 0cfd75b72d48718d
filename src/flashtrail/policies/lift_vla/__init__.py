"""A small vision-language-action policy for robosuite's Lift: pictures, an instruction, a chunk of ten actions."""
