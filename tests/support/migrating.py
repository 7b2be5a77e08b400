"""Databases at an earlier revision of the schema."""

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, create_engine

from router.storage.migrate import migrations_directory


def migrate_to(url: str, revision: str) -> None:
    """Bring a database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    engine = create_engine(URL.create("postgresql+psycopg"), creator=lambda: psycopg.connect(url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
