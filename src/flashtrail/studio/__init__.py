"""The studio: a web page on this machine in which a served policy is asked, watched and disturbed by hand.

`__main__` starts it. `page` and `visitors` run in an environment of their own (envs/studio.yaml: gradio), all
else here in the project's, as the process `stage`. Nothing imports this room.
"""
