"""Alembic's entry: runs on the connection that `Database.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

from provider.store import tables

assert tables.MachineRow.metadata is SQLModel.metadata  # noqa: S101 - importing the tables registers them

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
