"""Package of the ROS 2 build (ament_python); `tools/set_up.py` reads the requirements from here, too.

The requirements must stay plain literals, because the set-up and the doctor read them without running this file.
"""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "aiofranka_ros"

PYTHON_REQUIRES = ">=3.10,<3.13"

# Requirements of the node besides ROS. The version of pylibfranka determines the supported robot system versions: see
# Franka's compatibility table before changing its bounds.
INSTALL_REQUIRES = [
    "numpy>=1.22",
    "mcap>=1.0",
    "numba>=0.59",
    "packaging>=21.3",
    "pyyaml>=5.4",
    "rich>=12",
    "ruckig>=0.14",
    "scipy>=1.8",
    "pylibfranka>=0.20,<0.22",
]

EXTRAS_REQUIRE = {
    # The simulated arm. franka-sim pins numpy 1.26.4, which works with ROS from PyPI and from a distribution.
    "sim": ["franka-sim~=1.1.7", "mujoco>=3.2,<3.3"],
    "demo": ["matplotlib>=3.5"],
    # examples/openpi_policy.py.
    "openpi": ["websockets>=13", "msgpack>=1.0"],
    # The check includes the formatter's output, so its version is exact.
    "test": [
        "pytest>=7.4",
        "pytest-timeout>=2.2",
        "pytest-xdist>=3.0",
        "hypothesis>=6.80",
        "ruff==0.17.5",
        "mypy>=1.11,<3",
        "import-linter>=2.1,<3",
    ],
}

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Drive a Franka arm from Python and ROS 2, with a 1 kHz loop that nothing else can starve.",
    author="aiofranka_ros contributors",
    maintainer="aiofranka_ros contributors",
    maintainer_email="aiofranka_ros@example.org",
    license="Apache-2.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    python_requires=PYTHON_REQUIRES,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.*"))),
        (f"share/{PACKAGE}/config/sros2", sorted(glob("config/sros2/*"))),
    ],
    zip_safe=False,
    entry_points={
        # For `ros2 run aiofranka_ros NAME`; installed to lib/aiofranka_ros, not on the PATH.
        "console_scripts": [
            "node = aiofranka_ros.node.__main__:main",
            "gripper_node = aiofranka_ros.gripper_node.__main__:main",
            "rviz_tools = aiofranka_ros.rviz_tools.__main__:main",
            "simulation = aiofranka_ros.simulation.__main__:main",
            "demo = aiofranka_ros.demo.__main__:main",
            "ctl = aiofranka_ros.ctl.__main__:main",
            "doctor = aiofranka_ros.doctor.__main__:main",
            "streams = aiofranka_ros.streams.__main__:main",
            "explain = aiofranka_ros.explain.__main__:main",
            "identify_payload = aiofranka_ros.ctl.identify_payload.__main__:main",
        ],
    },
)
