"""Drive a Franka arm from Python and ROS 2, with a 1 kHz loop that nothing else can starve."""

__version__ = "0.1.0"
