"""How large a database is by what lies in it: the formula of README.md, "How big it gets"."""
import math

STEP, VALUE = 41, 4  # bytes of a step, and of each value in it besides step and time
POINT = 53  # of a point of the series
RUN = 5000
VERDICT, ALERT = 300, 900


def points(steps) -> float:
    """Of the series of a run."""
    return steps if steps <= 256 else 256 + 256 * math.log2(steps / 256)


def computed(sql) -> float:
    """Bytes; `sql(query)` gives rows."""
    def count(what, table):
        return sql(f"SELECT coalesce({what}, 0) FROM {table}")[0][0]

    steps = count("sum(n)", "chunks") + count("sum(n)", "tail")
    # What a packed row has beside its values is 28 bytes (daemon/archive/pack.h).
    packed = count("sum(length(rows))", "chunks") + count("sum(length(rows))", "tail")
    values = (packed - 28 * steps) / 4
    return (STEP * steps + VALUE * values + POINT * sum(points(n) for n, in sql("SELECT steps FROM runs")) +
            RUN * count("count(*)", "runs") + VERDICT * count("count(*)", "verdicts") +
            ALERT * count("count(*)", "alerts"))


def used(sql) -> int:
    """Bytes of the pages that are in use."""
    return sql("SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), "
               "pragma_freelist_count(), pragma_page_size()")[0][0]
