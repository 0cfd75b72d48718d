"""Pick and place seen from above, drawn with numpy: the test bed of trained policies, without OpenGL."""
