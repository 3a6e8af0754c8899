"""What style of ProxyDHCP each firmware accepted, beside what boot loader ran on it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.rename_table("loader", "firmware")
    with op.batch_alter_table("firmware") as batch_op:
        batch_op.alter_column("loader", existing_type=sa.String(), nullable=True)
        batch_op.add_column(sa.Column("proxy_style", sa.String(), nullable=True))
