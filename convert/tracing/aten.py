"""Every ATen operation that is known, by its name; each file that is imported here adds its own."""

from convert.tracing import elementwise as elementwise
from convert.tracing import layers as layers
from convert.tracing import shapes as shapes
from convert.tracing.writer import HANDLERS as HANDLERS
