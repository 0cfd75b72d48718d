"""From nothing to `resources/lift_nano`: the scripted expert of Lift, its demonstrations, the policy's training."""
