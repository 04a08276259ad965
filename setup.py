"""Packaging. The tools' settings are in pyproject.toml, the server's dependencies in requirements.txt."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """Read the version from the package's text: importing it here would need what is not installed yet."""
    text = (HERE / "vectorizer" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('setup.py: vectorizer/__init__.py has no line __version__ = "..."')
    return found.group(1)


def requirements() -> list[str]:
    """Return the lines of requirements.txt that name a package."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def description() -> str:
    """Return the README as the long description; a source tree that is only half there has none."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="vectorizer",
    version=version(),
    description="A vector database with master-replica replication",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vectorizer", "vectorizer.*"]),
    package_data={
        "vectorizer": ["py.typed"],
        "vectorizer.rest": ["dashboard.html", "dashboard.css", "dashboard.js"],
    },
    install_requires=requirements(),
    extras_require={
        "bench": ["matplotlib>=3.9,<4"],
        "demo": ["scikit-learn>=1.5,<2"],
        "parquet": ["pyarrow>=18"],
        "test": [
            "pytest>=8.3,<10",
            "pytest-cov>=6.0,<8",
            "pytest-timeout>=2.3,<3",
            "hypothesis>=6.119,<7",
            'atheris>=3.0,<4; platform_system == "Linux" and python_version < "3.14"',
            "coverage>=7.6,<8",
            "ruff>=0.8",
            "mypy>=1.13,<3",
            "scikit-learn>=1.5,<2",
            "openapi-spec-validator>=0.7.1,<1",
            "jsonschema>=4.23,<5",
            "schemathesis>=4.32,<5",
            "selenium>=4.27,<5",
            "pyarrow>=18",
            "types-gevent",
            "types-psutil",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["vectorizer=vectorizer.__main__:main"]},
)
